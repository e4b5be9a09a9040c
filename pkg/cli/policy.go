package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

// policyFlags are the settings of [keys.Policy]. The two that follow from the
// others, the announce lead and the retention, grow with them unless they are
// set.
type policyFlags struct {
	Algorithms     []string      `name:"keys-algorithms" default:"EdDSA,RS256" placeholder:"ALG" env:"URBANDATA_KEYS_ALGORITHMS" help:"Algorithms that have a signing key: EdDSA, RS256, ES256, PS256. (${env}, ${default})"`
	RSABits        int           `name:"keys-rsa-bits" default:"2048" placeholder:"BITS" env:"URBANDATA_KEYS_RSA_BITS" help:"Size of RSA keys to come: 2048, 3072 or 4096. (${env}, ${default})"`
	RotationPeriod time.Duration `name:"keys-rotation-period" default:"720h" placeholder:"TIME" env:"URBANDATA_KEYS_ROTATION_PERIOD" help:"How long a key signs. (${env}, ${default})"`
	AnnounceLead   time.Duration `name:"keys-announce-lead" placeholder:"TIME" env:"URBANDATA_KEYS_ANNOUNCE_LEAD" help:"How long a key is published before it may sign. 2h if not set, or what the others ask for. (${env})"`
	Retention      time.Duration `name:"keys-retention" placeholder:"TIME" env:"URBANDATA_KEYS_RETENTION" help:"How long a key stays published after it stopped signing. 1h if not set, or what the others ask for. (${env})"`
	JWKSMaxAge     time.Duration `name:"keys-jwks-max-age" default:"5m" placeholder:"TIME" env:"URBANDATA_KEYS_JWKS_MAX_AGE" help:"The max-age that the key set is served with. (${env}, ${default})"`
	Leeway         time.Duration `name:"keys-leeway" default:"60s" placeholder:"TIME" env:"URBANDATA_KEYS_LEEWAY" help:"By how much a verifier may let a token outlive its exp. (${env}, ${default})"`
	Tick           time.Duration `name:"keys-tick" default:"10s" placeholder:"TIME" env:"URBANDATA_KEYS_TICK" help:"How often a replica looks at the stored keys. (${env}, ${default})"`
	Skew           time.Duration `name:"keys-skew" default:"10s" placeholder:"TIME" env:"URBANDATA_KEYS_SKEW" help:"By how much the clocks of replicas may differ. (${env}, ${default})"`
	ReplicaLag     time.Duration `name:"keys-replica-lag" default:"10m" placeholder:"TIME" env:"URBANDATA_KEYS_REPLICA_LAG" help:"How much longer than a tick a replica goes on signing when it has lost the database. (${env}, ${default})"`
	VerifierSlack  time.Duration `name:"keys-verifier-slack" default:"30m" placeholder:"TIME" env:"URBANDATA_KEYS_VERIFIER_SLACK" help:"For verifiers that refresh on their own schedule only: half of it they keep a set, and half of it they may look again late. (${env}, ${default})"`
	Verifiers      []string      `name:"verifiers" placeholder:"NAME" env:"URBANDATA_KEYS_VERIFIERS" help:"The kinds of verifier in use, if all are known: jose, spring, … The least announce lead is then what they need, whatever the slack. (${env})"`
	Activate       string        `name:"keys-activate" default:"schedule" placeholder:"WHEN" env:"URBANDATA_KEYS_ACTIVATE" help:"What a planned rotation waits for: schedule, or evidence that every registered verifier holds the next key. (${env}, ${default})"`
	Registered     []string      `name:"keys-registered" placeholder:"NAME" env:"URBANDATA_KEYS_REGISTERED" help:"Running verifiers to wait for, by the names that they send as Urbandata-Verifier. (${env})"`
	MaxHold        time.Duration `name:"keys-max-hold" default:"1h" placeholder:"TIME" env:"URBANDATA_KEYS_MAX_HOLD" help:"For how long a planned rotation may be held back. (${env}, ${default})"`
}

// policySettings is how the fields of [keys.Policy] are set, by name.
var policySettings = map[string]string{ //nolint:gosec // names, no secrets
	"Algorithms":     "--keys-algorithms (URBANDATA_KEYS_ALGORITHMS)",
	"RSABits":        "--keys-rsa-bits (URBANDATA_KEYS_RSA_BITS)",
	"RotationPeriod": "--keys-rotation-period (URBANDATA_KEYS_ROTATION_PERIOD)",
	"AnnounceLead":   "--keys-announce-lead (URBANDATA_KEYS_ANNOUNCE_LEAD)",
	"Retention":      "--keys-retention (URBANDATA_KEYS_RETENTION)",
	"JWKSMaxAge":     "--keys-jwks-max-age (URBANDATA_KEYS_JWKS_MAX_AGE)",
	"TokenLife":      "--token-life (URBANDATA_AUTH_TOKEN_LIFE)",
	"Leeway":         "--keys-leeway (URBANDATA_KEYS_LEEWAY)",
	"Tick":           "--keys-tick (URBANDATA_KEYS_TICK)",
	"Skew":           "--keys-skew (URBANDATA_KEYS_SKEW)",
	"ReplicaLag":     "--keys-replica-lag (URBANDATA_KEYS_REPLICA_LAG)",
	"VerifierSlack":  "--keys-verifier-slack (URBANDATA_KEYS_VERIFIER_SLACK)",
	"Verifiers":      "--verifiers (URBANDATA_KEYS_VERIFIERS)",
	"Activate":       "--keys-activate (URBANDATA_KEYS_ACTIVATE)",
	"Registered":     "--keys-registered (URBANDATA_KEYS_REGISTERED)",
	"MaxHold":        "--keys-max-hold (URBANDATA_KEYS_MAX_HOLD)",
}

// policy reads the settings. An unsafe policy is a wrong setting: one sentence
// for the first rule that it breaks.
func (f *policyFlags) policy(tokenLife time.Duration) (keys.Policy, error) {
	p := keys.DefaultPolicy()
	p.Algorithms = nil
	for _, alg := range f.Algorithms {
		p.Algorithms = append(p.Algorithms, jose.SignatureAlgorithm(alg))
	}
	p.RSABits, p.RotationPeriod, p.JWKSMaxAge = f.RSABits, f.RotationPeriod, f.JWKSMaxAge
	p.TokenLife, p.Leeway = tokenLife, f.Leeway
	p.Tick, p.Skew, p.ReplicaLag, p.VerifierSlack = f.Tick, f.Skew, f.ReplicaLag, f.VerifierSlack
	p.Verifiers, p.Activate, p.Registered, p.MaxHold = f.Verifiers, keys.Activation(f.Activate), f.Registered, f.MaxHold
	p.AnnounceLead, p.Retention = f.AnnounceLead, f.Retention
	if f.AnnounceLead == 0 {
		p.AnnounceLead = max(keys.DefaultPolicy().AnnounceLead, p.MinLead())
	}
	if f.Retention == 0 { // a key stays published as long as its tokens live
		p.Retention = max(keys.DefaultPolicy().Retention, p.MinRetention())
	}
	return p, wrongPolicy(p.Validate())
}

// wrongPolicy says what [keys.Policy.Validate] says in the words of the command
// line: the setting to change first, flags in the place of fields.
func wrongPolicy(err error) error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
		err = joined.Unwrap()[0]
	}
	text := strings.TrimPrefix(err.Error(), keys.ErrPolicy.Error()+": ")
	// The field to change is the one that "raise" or "lower" names, and where
	// there is no such word, the one that the sentence begins with.
	setting, at := "the key policy", len(text)+1
	for field, s := range policySettings {
		for _, lead := range []string{"raise ", "lower "} {
			if strings.Contains(text, lead+field+" ") {
				setting, at = s, -1
			}
		}
		if i := strings.Index(text, field); i >= 0 && i < at {
			setting, at = s, i
		}
	}
	var flags []string
	for field, s := range policySettings {
		name, _, _ := strings.Cut(s, " ")
		flags = append(flags, field, name)
	}
	return wrongSetting(setting, "%s", strings.NewReplacer(flags...).Replace(text))
}

// knows reports whether a policy has keys for an algorithm.
func knows(p keys.Policy, alg string) bool {
	return slices.Contains(p.Algorithms, jose.SignatureAlgorithm(alg))
}
