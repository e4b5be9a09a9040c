package cli

import (
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/urbandata/urbandata/keys"
)

// readPolicy parses arguments as authserver does.
func readPolicy(t *testing.T, args ...string) (keys.Policy, error) {
	t.Helper()
	var c struct {
		TokenLife time.Duration `default:"5m"`
		Policy    policyFlags   `embed:""`
	}
	parser, err := kong.New(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		t.Fatal(err)
	}
	return c.Policy.policy(c.TokenLife)
}

func TestPolicyDefaults(t *testing.T) {
	got, err := readPolicy(t)
	if want := keys.DefaultPolicy(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("with nothing set it is %+v, %v; want the default, %+v", got, err, want)
	}
	got, err = readPolicy(t, "--token-life=24h", "--keys-jwks-max-age=3h")
	if err != nil || got.Retention != got.MinRetention() || got.AnnounceLead != got.MinLead() {
		t.Errorf("lead %v and retention %v don't follow the others: %v", got.AnnounceLead, got.Retention, err)
	}
}

// An unsafe policy is refused in the words of the command line: the setting to
// change, the number, and no field of a struct that the operator never saw.
func TestUnsafePolicyNamesTheFlag(t *testing.T) {
	field := regexp.MustCompile(`\b(` + strings.Join(policyFields(), "|") + `)\b`)
	if _, err := readPolicy(t, "--verifiers=jose,spring", "--keys-announce-lead=21m"); err != nil {
		t.Errorf("with verifiers named that need no more: %v", err)
	}
	for _, tc := range []struct{ args, setting, says string }{
		{"--keys-announce-lead=10m", "--keys-announce-lead (URBANDATA_KEYS_ANNOUNCE_LEAD): ", "raise --keys-announce-lead to 45m20s or more"},
		{"--keys-retention=1m", "--keys-retention (URBANDATA_KEYS_RETENTION): ", "raise --keys-retention to 16m30s or more"},
		{"--keys-rotation-period=1h", "--keys-rotation-period (URBANDATA_KEYS_ROTATION_PERIOD): ", "raise --keys-rotation-period to 2h0m0s or more"},
		{"--keys-rsa-bits=1024", "--keys-rsa-bits (URBANDATA_KEYS_RSA_BITS): ", "take 2048, 3072 or 4096"},
		{"--keys-algorithms=HS256", "--keys-algorithms (URBANDATA_KEYS_ALGORITHMS): ", `"HS256"`},
		{"--keys-algorithms=RS256,RS256", "--keys-algorithms (URBANDATA_KEYS_ALGORITHMS): ", "twice"},
		{"--keys-jwks-max-age=1500ms", "--keys-jwks-max-age (URBANDATA_KEYS_JWKS_MAX_AGE): ", "whole seconds"},
		{"--keys-tick=0s", "--keys-tick (URBANDATA_KEYS_TICK): ", "between"},
		{"--keys-leeway=-1s", "--keys-leeway (URBANDATA_KEYS_LEEWAY): ", "between"},
		{"--keys-skew=-1s", "--keys-skew (URBANDATA_KEYS_SKEW): ", "between"},
		{"--keys-replica-lag=-1s", "--keys-replica-lag (URBANDATA_KEYS_REPLICA_LAG): ", "between"},
		{"--keys-verifier-slack=-1s", "--keys-verifier-slack (URBANDATA_KEYS_VERIFIER_SLACK): ", "between"},
		{"--verifiers=acme", "--verifiers (URBANDATA_KEYS_VERIFIERS): ", "take of urbandata, jose"},
		{"--keys-activate=evidence", "--keys-activate (URBANDATA_KEYS_ACTIVATE): ", "name the verifiers to wait for"},
		{"--keys-activate=never", "--keys-activate (URBANDATA_KEYS_ACTIVATE): ", "schedule or evidence"},
		{"--keys-registered=a,a", "--keys-registered (URBANDATA_KEYS_REGISTERED): ", "twice"},
		{"--keys-max-hold=-1s", "--keys-max-hold (URBANDATA_KEYS_MAX_HOLD): ", "between"},
		{"--token-life=200000h", "--token-life (URBANDATA_AUTH_TOKEN_LIFE): ", "between"},
	} {
		_, err := readPolicy(t, tc.args)
		if err == nil {
			t.Errorf("%s is taken", tc.args)
			continue
		}
		text := err.Error()
		if !strings.HasPrefix(text, tc.setting) || !strings.Contains(text, tc.says) || field.MatchString(text) || strings.Contains(text, "\n") {
			t.Errorf("%s: %q; it should begin with %q and say %q", tc.args, text, tc.setting, tc.says)
		}
	}
}

// policyFields are those of [keys.Policy]: each has a setting.
func policyFields() (names []string) {
	for f := range reflect.TypeFor[keys.Policy]().Fields() {
		names = append(names, f.Name)
	}
	return names
}

func TestEveryPolicyFieldHasASetting(t *testing.T) {
	for _, name := range policyFields() {
		if policySettings[name] == "" {
			t.Errorf("keys.Policy.%s can't be set", name)
		}
	}
}
