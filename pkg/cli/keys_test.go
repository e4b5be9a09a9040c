package cli

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

// keysFixture is a data folder with a ring, as `up` leaves it.
type keysFixture struct {
	t      *testing.T
	dir    string
	env    map[string]string
	keeper *keys.Keeper
}

func newKeysFixture(t *testing.T) *keysFixture {
	t.Helper()
	f := &keysFixture{t: t, dir: t.TempDir(), env: map[string]string{}}
	sealer, err := (&upCmd{DataDir: f.dir}).sealer(newProgram(t, nil).program)
	if err != nil {
		t.Fatal(err)
	}
	db, err := openAuthn(t.Context(), authSetting, authFile(f.dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	f.keeper, err = keys.NewKeeper(keys.NewSQLStore(db.Write), sealer, keys.DefaultPolicy(), keys.Options{Name: "replica"})
	if err != nil {
		t.Fatal(err)
	}
	f.tick()
	f.tick() // the stand-bys
	return f
}

func (f *keysFixture) tick() keys.Ring {
	f.t.Helper()
	if err := f.keeper.Tick(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return f.keeper.Ring()
}

// run runs a sub-command of keys and insists on its exit code.
func (f *keysFixture) run(code int, args ...string) string {
	f.t.Helper()
	p := newProgram(f.t, f.env, append([]string{"keys", args[0], "--data-dir", f.dir}, args[1:]...)...)
	if got := run(p.program); got != code {
		f.t.Fatalf("keys %v: exit %d, want %d\n%s%s", args, got, code, p.out, p.err)
	}
	return p.out.String() + p.err.String()
}

func (f *keysFixture) says(out string, wanted ...string) {
	f.t.Helper()
	for _, text := range wanted {
		if !strings.Contains(out, text) {
			f.t.Errorf("it should say %q:\n%s", text, out)
		}
	}
}

func TestKeysRotate(t *testing.T) {
	f := newKeysFixture(t)
	ring := f.tick()
	current, next := ring.Signing(jose.EdDSA).ID, ring.Standby(jose.EdDSA).ID

	f.says(f.run(exitSetting, "rotate"), "--yes", "no terminal")
	if f.tick().Version != ring.Version {
		t.Fatal("without an answer it went ahead")
	}
	f.says(f.run(exitFailed, "rotate", "--alg", "ES256", "--yes"), "ES256 has no key to rotate to")

	f.says(f.run(exitOK, "rotate", "--alg", "EdDSA", "--yes"), next, current+" stops signing", "breaks nobody", "done: ring")
	ring = f.tick()
	if k := ring.Key(next); k.State != keys.Announced || !k.ActivateAt.Equal(k.ReadyAt) {
		t.Errorf("after a planned rotation the next key is %s, signs from %s, ready at %s", k.State, k.ActivateAt, k.ReadyAt)
	}
	f.says(f.run(exitOK, "rotate", "--alg", "EdDSA", "--yes"), "nothing to do")

	f.says(f.run(exitOK, "rotate", "--alg", "EdDSA", "--emergency", "--yes"), "takes over now", "at worst", "jwx2", "no end", "a9068")
	ring = f.tick()
	if ring.Signing(jose.EdDSA).ID != next || ring.Key(current).State != keys.Retiring {
		t.Errorf("after an emergency %s signs", ring.Signing(jose.EdDSA).ID)
	}
	f.says(f.run(exitOK, "history"), "emergency rotation asked for", "(command line)", "key.signing", "replica")
}

func TestKeysRevoke(t *testing.T) {
	f := newKeysFixture(t)
	ring := f.tick()
	current, next := ring.Signing(jose.RS256).ID, ring.Standby(jose.RS256).ID
	f.says(f.run(exitSetting, "revoke", "--reason", "stolen", "--", current), "--yes")
	f.says(f.run(exitSetting, "revoke", "--yes", "--", current), "--reason")
	f.says(f.run(exitFailed, "revoke", "--yes", "--reason", "stolen", "nonsense"), "there is no key")

	out := f.run(exitOK, "revoke", "--yes", "--reason", "stolen", "--", current)
	f.says(out, next+" signs from now on", "a fresh key is announced", "only when it is restarted", "within 10 h", "within 30 min", "after the fresh key", "Sessions:")
	for _, v := range keys.Verifiers() {
		f.says(out, v.Library)
	}
	ring = f.tick()
	if k := ring.Key(current); k.State != keys.Revoked || k.Reason != "stolen" || ring.Signing(jose.RS256).ID != next {
		t.Errorf("%+v", k)
	}
	f.says(f.run(exitOK, "revoke", "--yes", "--reason", "stolen", "--", current), "nothing to do")
	f.env["URBANDATA_KEYS_VERIFIERS"] = "jose,spring"
	if out := f.run(exitOK, "revoke", "--yes", "--reason", "and that one", "--", next); strings.Contains(out, "a9068") || !strings.Contains(out, "Spring") {
		t.Errorf("with --verifiers jose,spring:\n%s", out)
	}
}

// The timeline follows the table: by the verifier's own refresh or by the
// fresh key, whichever comes first.
func TestContainment(t *testing.T) {
	got := map[string]contained{}
	for _, c := range containment(keys.Verifiers(), 5*time.Minute, 2*time.Hour) {
		got[c.verifier.Name] = c
	}
	for name, want := range map[string]struct {
		after   time.Duration
		flushed bool
		never   bool
	}{
		"jose":   {after: 10 * time.Minute},
		"pyjwt":  {after: 5 * time.Minute},
		"jwx2":   {after: 30 * time.Minute},
		"auth0":  {after: 10 * time.Hour},
		"oidc":   {after: 2 * time.Hour, flushed: true},
		"rauth":  {after: 2*time.Hour + 10*time.Minute, flushed: true},
		"jose4j": {after: 5 * time.Minute},
		"a9068":  {never: true},
	} {
		if c := got[name]; c.after != want.after || c.flushed != want.flushed || c.never != want.never {
			t.Errorf("%s: %v, flushed %v, never %v; want %+v", name, c.after, c.flushed, c.never, want)
		}
	}
}

func TestKeysPlan(t *testing.T) {
	f := newKeysFixture(t)
	ring := f.tick()
	f.says(f.run(exitOK, "plan"), ring.Signing(jose.EdDSA).ID+"  ####", ring.Standby(jose.EdDSA).ID+"  ....", "(EdDSA 1)", "day 90", "signing: takes over")
	f.says(f.run(exitOK, "plan", "--days", "1"), "nothing will happen")
	f.says(f.run(exitSetting, "plan", "--days", "0"), "--days")
	f.says(f.run(exitSetting, "plan", "--keys-announce-lead", "1m"), "--keys-announce-lead")
	for line := range strings.Lines(f.run(exitOK, "plan", "--json")) {
		var e struct{ Kid, Alg, Reason string }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Kid == "" || e.Reason == "" {
			t.Errorf("%q: %v", line, err)
		}
	}
	if f.tick().Version != ring.Version {
		t.Error("a plan changed the ring")
	}
}

func TestKeysList(t *testing.T) {
	f := newKeysFixture(t)
	jwks, err := f.keeper.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	f.keeper.Saw("map-1", jwks.ETag)
	f.keeper.Saw("map-2", "")
	f.tick()
	f.says(f.run(exitOK, "list"), "1 of 2", "now", "HELD BY")
	f.says(f.run(exitOK, "list", "--keys-registered", "map-1"), "1 of 1")
	f.says(f.run(exitOK, "list", "--json"), `"held_by":["map-1"]`, `"missing":["map-2"]`)
}

func TestKeysImportAndExport(t *testing.T) {
	f := newKeysFixture(t)
	file := func(name, text string) string {
		path := filepath.Join(f.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private := ed25519.NewKeyFromSeed([]byte("a seed of thirty-two bytes......"))
	jwk := func(key any, kid string) string {
		text, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: "EdDSA", Use: "sig"})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	theirs := file("theirs.json", jwk(private, "theirs"))
	old := ed25519.NewKeyFromSeed([]byte("another of thirty-two bytes.....")).Public()
	older := ed25519.NewKeyFromSeed([]byte("a third one of thirty-two bytes.")).Public()
	set := file("set.json", `{"keys":[`+jwk(old, "2020")+`,`+jwk(older, "2019")+`]}`)

	f.says(f.run(exitSetting, "import", theirs), "--yes")
	f.says(f.run(exitSetting, "import", set, "--yes"), "FILE", "can only verify")
	f.says(f.run(exitSetting, "import", theirs, "--kid", "other", "--yes"), "--kid")
	f.says(f.run(exitSetting, "import", theirs, "--alg", "RS256", "--yes"), "--alg")
	f.says(f.run(exitSetting, "import", filepath.Join(f.dir, "none"), "--yes"), "FILE")
	f.says(f.run(exitSetting, "import", theirs, "--at-once", "--verify-only", "1h", "--yes"), "at-once")
	f.says(f.run(exitFailed, "import", file("x", "SECRET"), "--yes"), "not a key")
	f.says(f.run(exitSetting, "import", theirs, "--yes", "--keys-algorithms", "RS256"), "--keys-algorithms")
	f.says(f.run(exitSetting, "import", theirs, "--yes", "--sealing-key-file", file("other.key", keys.GenerateSealingKey().Encode())), "--sealing-key-file", "not the key")

	f.says(f.run(exitOK, "import", theirs, "--at-once", "--yes"), "theirs (EdDSA): signs from now on", "stops signing")
	f.says(f.run(exitOK, "import", set, "--verify-only", "25h", "--yes"), "2020 (EdDSA): published until", "2019")
	f.says(f.run(exitFailed, "import", theirs, "--yes"), "has it already")
	f.tick()
	signer, err := f.keeper.Signer(jose.EdDSA)
	if err != nil || signer.KeyID() != "theirs" || !private.Public().(ed25519.PublicKey).Equal(signer.Public()) {
		t.Fatalf("%v signs, %v", signer, err)
	}
	for _, kid := range []string{"theirs", "2020", "2019"} {
		if _, ok := f.keeper.PublicKey(kid); !ok {
			t.Errorf("%s isn't published", kid)
		}
	}

	f.says(f.run(exitOK, "export"), `"kid": "theirs"`, `"kid": "2020"`)
	f.says(f.run(exitOK, "export", "--format", "pem", "theirs"), "# kid theirs alg EdDSA", "BEGIN PUBLIC KEY")
	f.says(f.run(exitSetting, "export", "--private", "theirs"), "--out")
	out := filepath.Join(f.dir, "out.pem")
	f.says(f.run(exitSetting, "export", "--private", "--out", out, "theirs"), envKeyPassphrase)
	f.env[envKeyPassphrase] = "short"
	f.says(f.run(exitSetting, "export", "--private", "--out", out, "theirs"), envKeyPassphrase, "16")
	f.env[envKeyPassphrase] = "correct horse battery staple"
	f.says(f.run(exitOK, "export", "--private", "--out", out, "theirs"), "written")
	f.says(f.run(exitSetting, "export", "--private", "--out", out, "theirs"), "--out", "exists")
	f.says(f.run(exitFailed, "export", "--private", "--out", out+"2", "2020"), "erased")
	text, err := os.ReadFile(out)
	info, statErr := os.Stat(out)
	if err != nil || statErr != nil || info.Mode().Perm() != 0o600 || !strings.Contains(string(text), "ENCRYPTED PRIVATE KEY") {
		t.Fatalf("%v %v %v\n%s", info, err, statErr, text)
	}

	// It comes back in another ring, as it went.
	other := newKeysFixture(t)
	f.says(other.run(exitSetting, "import", out, "--kid", "theirs", "--yes"), envKeyPassphrase)
	other.env[envKeyPassphrase] = "correct horse battery staple"
	f.says(other.run(exitOK, "import", out, "--kid", "theirs", "--yes"), "published now", "breaks nobody")
	if k := other.tick().Key("theirs"); k == nil || k.State != keys.Announced {
		t.Errorf("%+v", k)
	}
}

func TestKeysRewrap(t *testing.T) {
	f := newKeysFixture(t)
	old, err := os.ReadFile(filepath.Join(f.dir, "sealing.key"))
	if err != nil {
		t.Fatal(err)
	}
	f.says(f.run(exitOK, "rewrap"), "every private half is sealed by")
	path := filepath.Join(f.dir, "new.key")
	fresh := keys.GenerateSealingKey()
	if err := os.WriteFile(path, []byte(fresh.Encode()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.says(f.run(exitSetting, "rewrap", "--sealing-key-file", path, "--yes"), "give that one, too")
	if err := os.WriteFile(path, []byte(fresh.Encode()+"\n"+string(old)), 0o600); err != nil {
		t.Fatal(err)
	}
	f.says(f.run(exitSetting, "rewrap", "--sealing-key-file", path), "--yes")
	f.says(f.run(exitOK, "rewrap", "--sealing-key-file", path, "--yes"), "to be sealed by "+fresh.ID(), "every private half is sealed by "+fresh.ID())
	f.says(f.run(exitOK, "rewrap", "--sealing-key-file", path), "every private half is sealed by "+fresh.ID())
	if err := f.keeper.Tick(t.Context()); !errors.Is(err, keys.ErrSealed) {
		t.Errorf("a replica without the new key: error %v, want ErrSealed", err)
	}
}

// A passphrase takes the place of a sealing key, and a sealing key that of a
// passphrase, by rewrap.
func TestSealingPassphrase(t *testing.T) {
	f := newKeysFixture(t)
	p := newProgram(t, map[string]string{envSealingPassphrase: "short"})
	var wrong *settingError
	if _, err := p.sealer(""); !errors.As(err, &wrong) || !strings.Contains(err.Error(), envSealingPassphrase) || strings.Contains(err.Error(), "short") {
		t.Errorf("a short passphrase: %v", err)
	}
	f.env[envSealingPassphrase] = "seven words of no meaning at all"
	sealer, err := newProgram(t, f.env).sealer("")
	if err != nil || !strings.HasPrefix(sealer.ID(), "argon2id.") {
		t.Fatal(sealer, err)
	}
	// The sealing key seals where both are set.
	both, err := newProgram(t, f.env).sealer(filepath.Join(f.dir, "sealing.key"))
	if err != nil || strings.HasPrefix(both.ID(), "argon2id.") {
		t.Fatal(both, err)
	}
}

func TestKeysHistory(t *testing.T) {
	f := newKeysFixture(t)
	out := f.run(exitOK, "history", "--verify")
	f.says(out, "entries are as they were written", "head ")
	_, head, _ := strings.Cut(strings.TrimSpace(out), "head ")
	f.run(exitOK, "rotate", "--yes")
	f.says(f.run(exitOK, "history", "--verify", "--head", head), "as they were written")
	f.says(f.run(exitSetting, "history", "--verify", "--head", "x"), "--head")
	f.says(f.run(exitSetting, "history", "--head", head), "--head")
	f.says(f.run(exitSetting, "history", "--limit", "0"), "--limit")
	for line := range strings.Lines(f.run(exitOK, "history", "--json", "--limit", "2")) {
		var e struct {
			Seq           int64
			Actor, Kid    string
			Before, After *keys.KeyRecord
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Seq == 0 || !strings.Contains(e.Actor, "command line") || e.Before == nil || e.After == nil {
			t.Errorf("%v: %s", err, line)
		}
	}
	db, err := openAuthn(t.Context(), authSetting, authFile(f.dir))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	// A history from before there was an audit is shown, and is no tampering.
	if _, err := db.Write.Exec(`DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete;
		DELETE FROM audit_entries; DELETE FROM audit_heads`); err != nil {
		t.Fatal(err)
	}
	f.says(f.run(exitOK, "history"), "first key", "replica")
	f.says(f.run(exitWarnings, "history", "--verify"), "have no entry")
	f.says(f.run(exitBroken, "history", "--verify", "--head", head), "TAMPERED WITH")
	f.run(exitOK, "rotate", "--emergency", "--yes")
	if _, err := db.Write.Exec(`UPDATE audit_entries SET actor = 'nobody'`); err != nil {
		t.Fatal(err)
	}
	f.says(f.run(exitBroken, "history", "--verify"), "TAMPERED WITH", "entry 1")
	f.says(f.run(exitBroken, "history", "--verify", "--json"), `"intact":false`)
}

func TestAsk(t *testing.T) {
	for _, tc := range []struct {
		answer string
		code   int
	}{{"yes\n", 0}, {" yes \n", 0}, {"y\n", exitDeclined}, {"no\n", exitDeclined}, {"", exitDeclined}} {
		var verdict *verdictError
		var out strings.Builder
		err := ask(strings.NewReader(tc.answer), &out)
		if tc.code == 0 && err != nil || tc.code != 0 && (!errors.As(err, &verdict) || verdict.code != tc.code) {
			t.Errorf("%q: %v", tc.answer, err)
		}
	}
}
