package authserver

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/urbandata/urbandata/pkg/cli/database"
)

// postbox is a mailer that keeps what it gets, or fails.
type postbox struct {
	mu   sync.Mutex
	got  []*Mail
	fail error
}

func (p *postbox) Send(_ context.Context, messages []*Mail) []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	errs := make([]error, len(messages))
	for i := range errs {
		errs[i] = p.fail
	}
	if p.fail == nil {
		p.got = append(p.got, messages...)
	}
	return errs
}

// mailing is a server that sends mail.
type mailing struct {
	*authn
	box *postbox
}

func newMailing(t *testing.T, db *database.SQL, verify Verification) *mailing {
	t.Helper()
	m := &mailing{box: &postbox{}}
	m.authn = newAuthn(t, db, func(o *Options) {
		o.Accounts = NewAccounts(o.Accounts.store, AccountsOptions{
			Now: o.Now, Mail: MailOptions{Mailer: m.box, URL: "https://casas.example", Verify: verify},
		})
	})
	return m
}

// deliver sends what is due, and returns it.
func (m *mailing) deliver() []*Mail {
	m.t.Helper()
	m.box.got = nil
	for {
		n, err := m.accounts.outbox.deliver(m.t.Context())
		if err != nil {
			m.t.Fatal(err)
		}
		if n == 0 {
			return m.box.got
		}
	}
}

// letter wants exactly one mail, to somebody, and returns the token in it.
func (m *mailing) letter(to, subject string) string {
	m.t.Helper()
	got := m.deliver()
	if len(got) != 1 || got[0].To != to || got[0].Subject != subject {
		m.t.Fatalf("sent %+v, want one to %s: %s", got, to, subject)
	}
	_, token, _ := strings.Cut(got[0].Link, "#token=")
	return token
}

func TestPasswordReset(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newMailing(t, db, VerifyOff)
		a.register("Ana@ejemplo.example")
		access, refresh := a.login("ana@ejemplo.example")
		ask := func(email string) *httptest.ResponseRecorder {
			return a.call("POST", "/authn/password/reset", "", member{"email": email})
		}
		known, unknown := ask("ANA@ejemplo.example"), ask("nadie@ejemplo.example")
		if known.Code != 202 || unknown.Code != 202 || known.Body.String() != unknown.Body.String() || len(known.Header()) != len(unknown.Header()) {
			t.Errorf("%d %s %v, and for nobody %d %s %v", known.Code, known.Body, known.Header(), unknown.Code, unknown.Body, unknown.Header())
		}
		token := a.letter("Ana@ejemplo.example", "Restablece tu contraseña") // the stored address, whatever was typed

		var stored int
		if err := db.Write.Get(&stored, "SELECT count(*) FROM email_links"); err != nil || stored != 1 {
			t.Errorf("%d links are stored (%v)", stored, err)
		}
		use := func(status int, token, password string) member {
			t.Helper()
			return a.must(status, "POST", "/authn/password/reset/confirm", "", member{"token": token, "new_password": password})
		}
		for _, bad := range []string{"", "x", newLink().String(), refresh} {
			if m := use(400, bad, otherPassword); m["code"] != "invalid_link" {
				t.Errorf("%v", m)
			}
		}
		if m := use(422, token, "ana@ejemplo.example"); !strings.Contains(toJSON(m), "/new_password") {
			t.Errorf("weak: %v", m)
		}
		a.must(400, "POST", "/authn/email/confirm", "", member{"token": token}) // it is for something else
		a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
		use(204, token, otherPassword)
		use(400, token, otherPassword+"!")
		a.must(401, "GET", "/authn/me", access, nil)
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword})
		m := a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": otherPassword})
		if m := a.must(200, "GET", "/authn/me", m["access"].(string), nil); m["email_verified"] != true {
			t.Errorf("who used a link reads the mail: %v", m)
		}
		a.letter("Ana@ejemplo.example", "Tu contraseña ha cambiado")

		// Ten minutes.
		ask("ana@ejemplo.example")
		token = a.letter("Ana@ejemplo.example", "Restablece tu contraseña")
		a.forward(linkLife[mailReset])
		use(400, token, testPassword)

		// Another password, another reset, or a disabled account spends the links that are out.
		ask("ana@ejemplo.example")
		token = a.letter("Ana@ejemplo.example", "Restablece tu contraseña")
		m = a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": otherPassword})
		a.must(204, "POST", "/authn/me/password", m["access"].(string), member{"current_password": otherPassword, "new_password": testPassword})
		use(400, token, otherPassword)
		a.deliver()
		ask("ana@ejemplo.example")
		token = a.letter("Ana@ejemplo.example", "Restablece tu contraseña")
		if err := a.accounts.SetPassword(t.Context(), "ana@ejemplo.example", otherPassword); err != nil {
			t.Fatal(err)
		}
		use(400, token, testPassword)
		ask("ana@ejemplo.example")
		token = a.letter("Ana@ejemplo.example", "Restablece tu contraseña")
		if err := a.accounts.Disable(t.Context(), "ana@ejemplo.example"); err != nil {
			t.Fatal(err)
		}
		use(400, token, testPassword)
		ask("ana@ejemplo.example")
		if got := a.deliver(); len(got) != 0 {
			t.Errorf("a disabled user gets %+v", got)
		}
		if err := a.accounts.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.forward(24 * time.Hour)
		if err := a.accounts.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := db.Write.Get(&stored, "SELECT count(*) FROM email_links"); err != nil || stored != 0 {
			t.Errorf("%d links are left (%v)", stored, err)
		}
		if log := a.log.String(); strings.Contains(log, "udl_") || strings.Contains(strings.ToLower(log), "ejemplo.example") {
			t.Errorf("the log holds a link or an address:\n%s", log)
		}
	})
}

// A hundred use one link at once: one succeeds, and its password is the user's.
func TestConcurrentReset(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newMailing(t, db, VerifyOff)
		a.register("ana@ejemplo.example")
		a.must(202, "POST", "/authn/password/reset", "", member{"email": "ana@ejemplo.example"})
		token := a.letter("ana@ejemplo.example", "Restablece tu contraseña")
		codes := make([]int, 100)
		var wg sync.WaitGroup
		for i := range codes {
			wg.Go(func() {
				codes[i] = a.call("POST", "/authn/password/reset/confirm", "",
					member{"token": token, "new_password": otherPassword + string(rune('a'+i))}).Code
			})
		}
		wg.Wait()
		won := -1
		for i, code := range codes {
			if code == 204 && won < 0 {
				won = i
			} else if code != 400 {
				t.Errorf("use %d is answered %d", i, code)
			}
		}
		if won < 0 {
			t.Fatal("none has succeeded")
		}
		a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": otherPassword + string(rune('a'+won))})
	})
}

func TestEmailVerification(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		t.Run("warn", func(t *testing.T) {
			a := newMailing(t, db, VerifyWarn)
			if m := a.register("ana@ejemplo.example"); m["email_verified"] != false {
				t.Errorf("registered %v", m)
			}
			first := a.letter("ana@ejemplo.example", "Confirma tu dirección de correo")
			login := member{"email": "ana@ejemplo.example", "password": testPassword}
			m := a.must(200, "POST", "/authn/token", "", login)
			if m["email_unverified"] != true {
				t.Errorf("no warning: %v", m)
			}
			access := m["access"].(string)
			a.must(202, "POST", "/authn/email/verify", access, nil)
			token := a.letter("ana@ejemplo.example", "Confirma tu dirección de correo")
			a.must(400, "POST", "/authn/password/reset/confirm", "", member{"token": token, "new_password": otherPassword})
			a.must(204, "POST", "/authn/email/confirm", "", member{"token": token})
			a.must(400, "POST", "/authn/email/confirm", "", member{"token": token})
			a.must(400, "POST", "/authn/email/confirm", "", member{"token": first})
			if m := a.must(200, "POST", "/authn/token", "", login); m["email_unverified"] != nil {
				t.Errorf("still warned: %v", m)
			}
			a.must(202, "POST", "/authn/email/verify", access, nil)
			if got := a.deliver(); len(got) != 0 {
				t.Errorf("verified already, and gets %+v", got)
			}
			a.must(409, "POST", "/authn/register", "", login)
		})
		t.Run("required", func(t *testing.T) {
			a := newMailing(t, db, VerifyRequired)
			register := func(email string) *httptest.ResponseRecorder {
				r := a.request("POST", "/authn/register", "", member{"email": email, "password": testPassword})
				r.Header.Set("Accept-Language", "en")
				w := httptest.NewRecorder()
				a.ServeHTTP(w, r)
				return w
			}
			fresh := register("eva@ejemplo.example")
			token := a.letter("eva@ejemplo.example", "Confirm your e-mail address")
			known := register("EVA@ejemplo.example")
			a.letter("eva@ejemplo.example", "You have an account already")
			if fresh.Code != 202 || known.Code != 202 || fresh.Body.Len() != 0 || known.Body.Len() != 0 || len(fresh.Header()) != len(known.Header()) {
				t.Errorf("a new address: %d %s %v; a known one: %d %s %v", fresh.Code, fresh.Body, fresh.Header(), known.Code, known.Body, known.Header())
			}
			a.must(422, "POST", "/authn/register", "", member{"email": "eva@ejemplo.example", "password": "short"})

			login := member{"email": "eva@ejemplo.example", "password": testPassword}
			if m := a.must(401, "POST", "/authn/token", "", login); m["code"] != "email_unverified" || m["error"] != "invalid_grant" {
				t.Errorf("unverified: %v", m)
			}
			a.letter("eva@ejemplo.example", "Confirm your e-mail address")
			if m := a.must(401, "POST", "/authn/token", "", member{"email": "eva@ejemplo.example", "password": "not my password"}); m["code"] != "wrong_credentials" {
				t.Errorf("who doesn't know the password learns something: %v", m)
			}
			a.must(204, "POST", "/authn/email/confirm", "", member{"token": token})
			a.must(200, "POST", "/authn/token", "", login)

			// Whom an operator makes needs no mail.
			if _, err := a.accounts.Create(t.Context(), NewUser{Email: "jefa@ejemplo.example", Password: testPassword}); err != nil {
				t.Fatal(err)
			}
			a.must(200, "POST", "/authn/token", "", member{"email": "jefa@ejemplo.example", "password": testPassword})
		})
	})
}

func TestEmailChange(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newMailing(t, db, VerifyOff)
		a.register("ana@ejemplo.example")
		a.register("eva@ejemplo.example")
		access, _ := a.login("ana@ejemplo.example")
		ask := func(status int, email, password string) {
			t.Helper()
			a.must(status, "POST", "/authn/me/email", access, member{"email": email, "password": password})
		}
		ask(403, "nueva@ejemplo.example", "not my password")
		ask(422, "nueva", testPassword)
		ask(202, "mal@ejemplo.example", testPassword)
		ask(202, "Nueva@ejemplo.example", testPassword) // takes the place of the one before
		token := a.letter("Nueva@ejemplo.example", "Confirma tu nueva dirección de correo")
		a.must(202, "POST", "/authn/password/reset", "", member{"email": "ana@ejemplo.example"})
		reset := a.letter("ana@ejemplo.example", "Restablece tu contraseña")
		if m := a.must(200, "GET", "/authn/me", access, nil); m["email"] != "ana@ejemplo.example" {
			t.Errorf("changed before it was confirmed: %v", m)
		}
		a.must(204, "POST", "/authn/email/confirm", "", member{"token": token})
		a.letter("ana@ejemplo.example", "Tu dirección de correo ha cambiado")
		if m := a.must(200, "GET", "/authn/me", access, nil); m["email"] != "Nueva@ejemplo.example" || m["email_verified"] != true {
			t.Errorf("after the change: %v", m)
		}
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword})
		a.must(200, "POST", "/authn/token", "", member{"email": "nueva@ejemplo.example", "password": testPassword})
		a.must(400, "POST", "/authn/password/reset/confirm", "", member{"token": reset, "new_password": otherPassword}) // it went to the old address

		// An address that somebody has: its owner is told, and nobody else.
		ask(202, "EVA@ejemplo.example", testPassword)
		a.letter("eva@ejemplo.example", "Ya tienes una cuenta")

		// Taken while the mail was on its way.
		ask(202, "libre@ejemplo.example", testPassword)
		token = a.letter("libre@ejemplo.example", "Confirma tu nueva dirección de correo")
		a.register("libre@ejemplo.example")
		if m := a.must(409, "POST", "/authn/email/confirm", "", member{"token": token}); m["code"] != "email_taken" {
			t.Errorf("%v", m)
		}
	})
}

// A mail server that is away loses nothing and slows nobody.
func TestDeadMailServer(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newMailing(t, db, VerifyOff)
		a.register("ana@ejemplo.example")
		a.box.fail = errors.New("connection refused")
		access, _ := a.login("ana@ejemplo.example")
		a.must(204, "POST", "/authn/me/password", access, member{"current_password": testPassword, "new_password": otherPassword})
		a.must(202, "POST", "/authn/password/reset", "", member{"email": "ana@ejemplo.example"})
		for range 12 { // some ten minutes of trying
			if got := a.deliver(); len(got) != 0 {
				t.Fatalf("sent %v", got)
			}
			a.forward(time.Minute)
		}
		a.box.fail = nil
		a.forward(30 * time.Minute)
		got := a.deliver()
		if len(got) != 2 {
			t.Fatalf("afterwards %d mails arrive, want 2: %+v", len(got), got)
		}
		for _, m := range got {
			if _, token, ok := strings.Cut(m.Link, "#token="); ok { // fresh, however long it waited
				a.must(204, "POST", "/authn/password/reset/confirm", "", member{"token": token, "new_password": testPassword})
			}
		}
		a.deliver()

		// What helps nobody any more is given up, and so is what will never be taken.
		a.must(202, "POST", "/authn/password/reset", "", member{"email": "ana@ejemplo.example"})
		a.forward(mailExpiry(mailReset))
		if got := a.deliver(); len(got) != 0 {
			t.Errorf("sent too late: %v", got)
		}
		a.box.fail = ErrRejected
		a.must(202, "POST", "/authn/password/reset", "", member{"email": "ana@ejemplo.example"})
		a.deliver()
		a.box.fail = nil
		a.forward(time.Hour)
		if got := a.deliver(); len(got) != 0 {
			t.Errorf("sent again to who was refused: %v", got)
		}
		if waiting, _, err := a.store.outboxLength(t.Context(), a.clock.Now()); err != nil || waiting != 0 {
			t.Errorf("%d mails are left (%v)", waiting, err)
		}
	})
}

// Replicas share the outbox: each mail is sent by one of them, and what one
// had when it died is sent by another.
func TestReplicasShareTheOutbox(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newMailing(t, db, VerifyOff)
		const users = 30
		for i := range users {
			email := string(rune('a'+i%26)) + string(rune('a'+i/26)) + "@ejemplo.example"
			if err := a.store.insertUser(t.Context(), &userRow{ID: uuid.NewString(), Email: email, EmailKey: email, Roles: "user"}, nil); err != nil {
				t.Fatal(err)
			}
			a.must(202, "POST", "/authn/password/reset", "", member{"email": email})
		}
		dead, err := a.store.leaseMail(t.Context(), "dead", a.clock.Now(), a.clock.Now().Add(mailLease), 5)
		if err != nil || len(dead) != 5 {
			t.Fatalf("%d %v", len(dead), err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					n, err := a.accounts.outbox.deliver(t.Context())
					if err != nil {
						t.Error(err)
					}
					if n == 0 {
						return
					}
				}
			})
		}
		wg.Wait()
		a.forward(mailLease)
		before := len(a.box.got)
		if _, err := a.accounts.outbox.deliver(t.Context()); err != nil {
			t.Fatal(err)
		}
		to := map[string]int{}
		for _, m := range a.box.got {
			to[m.To]++
		}
		if before != users-5 || len(a.box.got) != users || len(to) != users {
			t.Errorf("%d, then %d mails to %d users; want %d, then %d", before, len(a.box.got), len(to), users-5, users)
		}
	})
}

// Without a mail server the routes aren't there, and verification can't be asked for.
func TestNoMail(t *testing.T) {
	a := newSQLiteAuthn(t)
	a.must(404, "POST", "/authn/password/reset", "", member{"email": "ana@ejemplo.example"})
	_, err := New(Options{
		Issuer: testIssuer, Keys: a.issuer.keys,
		Accounts: NewAccounts(a.store, AccountsOptions{Mail: MailOptions{Verify: VerifyRequired}}),
	})
	if !errors.Is(err, ErrOptions) {
		t.Errorf("%v, want ErrOptions", err)
	}
}

// The worker sends what a request asked for at once, without waiting for the
// next look into the outbox, over real SMTP.
func TestWorker(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		s := newSMTP(t, "casas", true, false)
		a := newAuthn(t, db, func(o *Options) {
			o.Accounts = NewAccounts(o.Accounts.store, AccountsOptions{
				Now: o.Now, Mail: MailOptions{Mailer: s.mailer(StartTLS, "casas", "geheim"), URL: testIssuer, Verify: VerifyWarn},
			})
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); a.Run(ctx) }()
		a.register("ana@ejemplo.example")
		deadline := time.After(30 * time.Second)
		for arrived := 0; arrived == 0; {
			select {
			case <-deadline:
				t.Fatal("nothing arrives")
			case <-time.After(5 * time.Millisecond):
			}
			s.mu.Lock()
			arrived = len(s.got)
			s.mu.Unlock()
		}
		stop()
		<-ended
		_, parts := s.got[0].parts(t)
		_, token, _ := strings.Cut(parts["text/plain"], "/confirm-email#token=")
		token, _, _ = strings.Cut(token, "\n")
		a.must(204, "POST", "/authn/email/confirm", "", member{"token": token})
		if log := a.log.String(); strings.Contains(log, token) || strings.Contains(log, "ejemplo.example") || strings.Contains(log, "geheim") {
			t.Errorf("the log holds a secret or an address:\n%s", log)
		}
	})
}

// Who reads a user's mail can change the password, and still lacks the code.
func TestResetLeavesTheSecondFactor(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		sealer, err := testSealer()
		if err != nil {
			t.Fatal(err)
		}
		a := newMailing(t, db, VerifyOff)
		a.accounts.options.Sealer = sealer
		a.register("ana@ejemplo.example")
		user, err := a.store.findUser(t.Context(), "ana@ejemplo.example")
		if err != nil {
			t.Fatal(err)
		}
		secret, _, err := a.accounts.offerSecondFactor(t.Context(), user, testPassword, testIssuer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.accounts.confirmSecondFactor(t.Context(), user, a.code(secret)); err != nil {
			t.Fatal(err)
		}
		a.deliver() // that there is one
		a.must(202, "POST", "/authn/password/reset", "", member{"email": "ana@ejemplo.example"})
		token := a.letter("ana@ejemplo.example", "Restablece tu contraseña")
		a.must(204, "POST", "/authn/password/reset/confirm", "", member{"token": token, "new_password": otherPassword})
		login := member{"email": "ana@ejemplo.example", "password": otherPassword}
		if m := a.must(401, "POST", "/authn/token", "", login); m["code"] != "otp_required" {
			t.Errorf("a login after a reset, without a code: %v", m)
		}
		a.forward(time.Minute)
		login["otp"] = a.code(secret)
		a.must(200, "POST", "/authn/token", "", login)
	})
}
