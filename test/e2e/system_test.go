package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/test/engines"
)

// issuer is who the tokens are from. It stays the same over restarts, unlike
// the ports.
const issuer = "https://id.example"

// installation is data that urbandata can be started on, again and again.
type installation struct {
	t      *testing.T
	ledger *ledger
	client *client

	// What an operator's commands need: a file and two URLs.
	sealingKey, authDatabase, apiDatabase string

	launch  func(extra settings) *system
	running *system // the last that was started
}

// system is an installation that runs.
type system struct {
	auth, api []string // base URLs of the replicas
	processes []*process
}

// The first and the last replica of each service: what one does, the other
// has to know of.
func (s *system) auths() (one, other string) { return s.auth[0], s.auth[len(s.auth)-1] }
func (s *system) apis() (one, other string)  { return s.api[0], s.api[len(s.api)-1] }

// all is the base URL of every replica.
func (s *system) all() []string { return slices.Concat(s.auth, s.api) }

// start starts the installation, with more settings for each process, and
// waits until it is ready.
func (in *installation) start(extra settings) *system {
	in.t.Helper()
	s := in.launch(extra)
	in.running = s
	for _, base := range s.all() {
		eventually(in.t, base+" is ready", func() bool {
			a, err := in.client.try(http.MethodGet, base+"/readyz", nil)
			return err == nil && a.status == http.StatusOK
		})
	}
	return s
}

// stop ends every process in good order.
func (s *system) stop() {
	for _, p := range s.processes {
		p.t.Helper()
		p.terminate()
	}
	for _, p := range s.processes {
		p.ended()
	}
}

// everyWay runs a test on each way to run urbandata, on empty databases.
func everyWay(t *testing.T, f func(*testing.T, *installation)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		f(t, embedded(t))
	})
	t.Run("replicas", func(t *testing.T) {
		t.Parallel()
		f(t, replicas(t))
	})
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	l := newLedger(t)
	return &installation{t: t, ledger: l, client: newClient(t, l)}
}

// with is the settings of a process: its own, more for a test, and for all of
// them any free port, no time for a load balancer that isn't there, and logs of
// everything, so that the ledger sees what the most talkative setting gives
// away.
func (s settings) with(extra settings) settings {
	all := settings{
		"URBANDATA_LOG_LEVEL": "debug", "URBANDATA_METRICS_LISTEN": "127.0.0.1:0", "URBANDATA_DRAIN_DELAY": "0s",
	}
	maps.Copy(all, s)
	maps.Copy(all, extra)
	return all
}

// embedded is `up`.
func embedded(t *testing.T) *installation {
	t.Helper()
	in := newInstallation(t)
	data := filepath.Join(t.TempDir(), "data")
	in.sealingKey = filepath.Join(data, "sealing.key")
	in.authDatabase = "sqlite:" + filepath.Join(data, "authn.db")
	in.apiDatabase = "sqlite:" + filepath.Join(data, "inmuebles.db")
	in.launch = func(extra settings) *system {
		p := start(t, in.ledger, settings{}.with(extra), "up", "--issuer", issuer,
			"--auth-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--data-dir", data)
		s := &system{auth: []string{p.url()}, api: []string{p.url()}, processes: []*process{p}}
		key, err := os.ReadFile(in.sealingKey)
		if err != nil {
			t.Fatalf("the sealing key: %v", err)
		}
		in.ledger.secret("the sealing key", strings.TrimSpace(string(key)))
		return s
	}
	return in
}

// replicas is two of each service. One of each has its settings in the
// environment, the other in files and arguments.
func replicas(t *testing.T) *installation {
	t.Helper()
	in := newInstallation(t)
	in.authDatabase = engines.PostgresURL(t)
	in.apiDatabase = engines.MongoURL(t)
	if u, err := url.Parse(in.authDatabase); err == nil {
		if password, set := u.User.Password(); set {
			in.ledger.secret("the database's password", password)
		}
	}
	key := newSealingKey()
	in.ledger.secret("the sealing key", key)
	in.sealingKey = file(t, key+"\n")
	authFile, apiFile := file(t, in.authDatabase+"\n"), file(t, in.apiDatabase+"\n")

	in.launch = func(extra settings) *system {
		auth := []*process{ // started at one moment, at first on an empty database
			start(t, in.ledger, settings{
				"URBANDATA_AUTH_DATABASE": in.authDatabase, "URBANDATA_SEALING_KEY_FILE": in.sealingKey,
				"URBANDATA_AUTH_ISSUER": issuer, "URBANDATA_AUTH_LISTEN": "127.0.0.1:0",
			}.with(extra), "authserver"),
			start(t, in.ledger, settings{"URBANDATA_AUTH_DATABASE_FILE": authFile}.with(extra), "authserver",
				"--listen", "127.0.0.1:0", "--issuer", issuer, "--sealing-key-file", in.sealingKey),
		}
		s := &system{auth: []string{auth[0].url(), auth[1].url()}}
		api := []*process{
			start(t, in.ledger, settings{
				"URBANDATA_API_DATABASE": in.apiDatabase, "URBANDATA_API_JWKS_URL": s.auth[0] + "/.well-known/jwks.json",
				"URBANDATA_API_ISSUER": issuer, "URBANDATA_API_LISTEN": "127.0.0.1:0", "URBANDATA_API_AUDIENCE": "inmuebles",
			}.with(extra), "resourceserver"),
			start(t, in.ledger, settings{"URBANDATA_API_DATABASE_FILE": apiFile}.with(extra), "resourceserver",
				"--listen", "127.0.0.1:0", "--issuer", issuer, "--audience", "inmuebles",
				"--jwks-url", s.auth[1]+"/.well-known/jwks.json"),
		}
		s.api = []string{api[0].url(), api[1].url()}
		s.processes = slices.Concat(auth, api)
		return s
	}
	return in
}

// newSealingKey is what `openssl rand -base64 32` prints.
func newSealingKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.StdEncoding.EncodeToString(b[:])
}

// randomText is 26 letters and digits that nobody else has.
func randomText() string { return strings.ToLower(rand.Text()) }
