package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/urbandata/urbandata/pkg/audit"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
)

// audited is the whole audit of accounts, the oldest first, once it has been
// verified.
func (a *authn) audited() (entries []audit.Entry) {
	a.t.Helper()
	if err := a.accounts.SettleAudit(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	_, err := a.store.audit.Verify(a.t.Context(), nil, func(e audit.Entry) error { entries = append(entries, e); return nil })
	if err != nil {
		a.t.Fatal(err)
	}
	return entries
}

// said is an entry in short: who, what, whom and why, with names for ids.
func said(e audit.Entry, names map[string]string) string {
	text := e.Actor + " | " + e.Action + " | " + e.Subject + " | " + e.Reason
	for id, name := range names {
		text = strings.ReplaceAll(text, id, name)
	}
	return text
}

// What users do is in the audit, in order; what is secret isn't.
func TestAuditOfUsers(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newMailing(t, db, VerifyOff)
		ana, _ := a.register("ana@ejemplo.example")["id"].(string)
		a.must(409, "POST", "/authn/register", "", member{"email": "ana@ejemplo.example", "password": testPassword})
		access, refresh := a.login("ana@ejemplo.example")
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "not my password"})
		a.must(401, "POST", "/authn/token", "", member{"email": "nadie@ejemplo.example", "password": "not my password"})
		a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": refresh}) // is in no audit
		a.audited()

		a.must(403, "POST", "/authn/me/password", access, member{"current_password": "not my password", "new_password": "otra frase larga"})
		a.audited()
		_, other := a.login("ana@ejemplo.example")
		a.must(204, "POST", "/authn/me/password", access, member{"current_password": testPassword, "new_password": "otra frase larga"})
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": other})
		a.forward(time.Minute)
		a.must(401, "POST", "/authn/token/refresh", "", member{"refresh": refresh}) // reuse
		m := a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "otra frase larga"})
		access, _ = m["access"].(string)
		a.must(204, "POST", "/authn/sign_out", access, nil)
		m = a.must(200, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "otra frase larga"})
		access, _ = m["access"].(string)
		a.must(202, "POST", "/authn/me/email", access, member{"email": "ana@nuevo.example", "password": "otra frase larga"})
		a.must(204, "DELETE", "/authn/sessions/others", access, nil) // there are none
		a.must(202, "POST", "/authn/password/reset", "", member{"email": "ana@ejemplo.example"})
		a.audited()
		a.must(202, "DELETE", "/authn/me", access, member{"password": "otra frase larga"})
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "otra frase larga"})
		a.audited()
		a.must(204, "POST", "/authn/restore", "", member{"email": "ana@ejemplo.example", "password": "otra frase larga"})

		entries := a.audited()
		var got []string
		for _, e := range entries {
			got = append(got, said(e, map[string]string{ana: "ana"}))
			if e.Origin != `{"network":"192.0.2.1"}` {
				t.Errorf("%s: from %s", said(e, nil), e.Origin)
			}
		}
		want := []string{
			"user ana | user.registered | user ana | ",
			"user ana | login | user ana | ",
			"anonymous | user.registration_refused | user ana | email_taken",
			"anonymous | login.failed | user ana | wrong_credentials",
			"anonymous | login.failed |  | wrong_credentials",
			"user ana | reauthentication.failed | user ana | wrong_credentials",
			"user ana | login | user ana | ",
			"user ana | password.changed | user ana | ",
			"user ana | session.ended | user ana | password changed",
			"anonymous | session.reuse_detected | user ana | refresh token reused",
			"user ana | login | user ana | ",
			"user ana | session.ended | user ana | signed out",
			"user ana | login | user ana | ",
			"user ana | email.change_requested | user ana | ",
			"anonymous | password.reset_requested | user ana | ",
			"user ana | user.deleted | user ana | ",
			"user ana | session.ended | user ana | account deleted",
			"anonymous | login.failed | user ana | account_deleted",
			"user ana | user.restored | user ana | ",
		}
		// What is refused within one moment is logged in any order.
		if len(got) > 4 && got[3] > got[4] {
			got[3], got[4] = got[4], got[3]
		}
		sortRun(got, 2, 5)
		sortRun(want, 2, 5)
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("the audit is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for _, e := range entries {
			all := strings.ToLower(fmt.Sprintf("%+v", e))
			for _, secret := range []string{"ejemplo.example", "nuevo.example", "frase larga", "my password", "udr_", "eyj", "$argon2"} {
				if strings.Contains(all, secret) {
					t.Errorf("the audit has %q: %s", secret, all)
				}
			}
		}
	})
}

// link is the token of the link in the newest mail.
func (m *mailing) link() string {
	m.t.Helper()
	for _, mail := range m.deliver() {
		if _, token, ok := strings.Cut(mail.Link, "#token="); ok {
			return token
		}
	}
	m.t.Fatal("no mail has a link")
	return ""
}

func sortRun(list []string, from, to int) {
	if len(list) < to {
		return
	}
	part := list[from:to]
	for i := range part {
		for j := i + 1; j < len(part); j++ {
			if part[j] < part[i] {
				part[i], part[j] = part[j], part[i]
			}
		}
	}
}

// Second factors and links by mail.
func TestAuditOfFactorsAndLinks(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newMailing(t, db, VerifyWarn)
		ana, _ := a.register("ana@ejemplo.example")["id"].(string)
		a.must(204, "POST", "/authn/email/confirm", "", member{"token": a.link()})
		access, _ := a.login("ana@ejemplo.example")
		a.must(202, "POST", "/authn/me/email", access, member{"email": "ana@nuevo.example", "password": testPassword})
		a.must(204, "POST", "/authn/email/confirm", "", member{"token": a.link()})
		a.must(202, "POST", "/authn/password/reset", "", member{"email": "ana@nuevo.example"})
		a.audited()
		a.must(204, "POST", "/authn/password/reset/confirm", "", member{"token": a.link(), "new_password": "otra frase larga"})
		if err := a.store.turnOnFactor(t.Context(), ana, nil, nil, a.clock.Now()); err != nil {
			t.Fatal(err)
		}
		if err := a.store.replaceRecoveryCodes(t.Context(), ana, nil, a.clock.Now()); err != nil {
			t.Fatal(err)
		}
		if err := a.accounts.RemoveSecondFactor(WithActor(t.Context(), "operator ana@host"), "ana@nuevo.example"); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range a.audited() {
			got = append(got, said(e, map[string]string{ana: "ana"}))
		}
		want := `user ana | user.registered | user ana | 
user ana | email.verified | user ana | 
user ana | login | user ana | 
user ana | email.change_requested | user ana | 
user ana | email.changed | user ana | 
anonymous | password.reset_requested | user ana | 
user ana | password.reset | user ana | 
user ana | session.ended | user ana | password reset
user ana | second_factor.on | user ana | 
user ana | recovery_codes.replaced | user ana | 
operator ana@host | second_factor.off | user ana | `
		if strings.Join(got, "\n") != want {
			t.Errorf("the audit is\n%s\nwant\n%s", strings.Join(got, "\n"), want)
		}
	})
}

// What operators do, by the methods of the command line.
func TestAuditOfOperators(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		ctx := WithActor(t.Context(), "operator eva@host")
		u, err := a.accounts.Create(ctx, NewUser{Email: "ana@ejemplo.example", Password: testPassword, Roles: []token.Role{token.RoleAdmin}})
		if err != nil {
			t.Fatal(err)
		}
		client, _, err := a.clients.Create(ctx, NewClient{Name: "report", Scope: token.Scope{token.ScopeInmueblesRead}})
		if err != nil {
			t.Fatal(err)
		}
		no, yes, name := false, true, "nightly report"
		_, rotateErr := a.clients.RotateSecret(ctx, client.ID, time.Hour)
		_, renameErr := a.clients.Change(ctx, client.ID, ClientChange{Name: &name})
		_, rolesErr := a.accounts.ChangeByEmail(ctx, u.Email, UserChange{Roles: []token.Role{token.RoleUser}})
		_, sameErr := a.accounts.ChangeByEmail(ctx, u.Email, UserChange{Roles: []token.Role{token.RoleUser}, Disabled: &no})
		_, audienceErr := a.clients.AddAudience(ctx, RegisteredAudience{Name: "maps", Alg: "RS256", Type: token.TypeAccess})
		_, importErr := a.accounts.Import(ctx, strings.NewReader("email\nluz@ejemplo.example\n"), ImportOptions{Format: ImportCSV})
		_, enableErr := a.accounts.ChangeByEmail(ctx, "luz@ejemplo.example", UserChange{Disabled: &no})
		_, deleteErr := a.accounts.Delete(ctx, u.ID)
		err = errors.Join(rotateErr, renameErr, rolesErr, sameErr, audienceErr, importErr, enableErr, deleteErr,
			a.accounts.Disable(ctx, "luz@ejemplo.example"), a.accounts.SetPassword(ctx, u.Email, "otra frase larga"),
			a.clients.SetDisabled(ctx, client.ID, true), a.clients.SetDisabled(ctx, client.ID, yes), a.clients.SetDisabled(ctx, client.ID, false),
			a.clients.Remove(ctx, client.ID), a.clients.RemoveAudience(ctx, "maps"))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range a.audited() {
			if e.Actor != "operator eva@host" || e.Subject == "" {
				t.Errorf("%s, want the operator", said(e, nil))
			}
			got = append(got, e.Action)
		}
		want := "[user.created client.created client.secret_rotated client.changed user.roles_changed audience.created user.imported " +
			"user.deleted user.disabled password.set client.disabled client.enabled client.removed audience.removed]"
		if fmt.Sprint(got) != want {
			t.Errorf("the audit is %v, want %s", got, want)
		}
	})
}

// A hundred at once leave one chain that holds them all, also with somebody
// who settles all the time.
func TestConcurrentLoginsAreOneChain(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		ana, _ := a.register("ana@ejemplo.example")["id"].(string)
		const logins = 100
		var granted sync.Map
		var wg sync.WaitGroup
		for i := range logins {
			wg.Go(func() {
				w := a.call("POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword})
				var m struct{ Access string }
				if err := json.Unmarshal(w.Body.Bytes(), &m); w.Code == 200 && err == nil {
					granted.Store(m.Access, i)
				} else if w.Code != 503 { // the queue of the hasher is full
					t.Errorf("%d %s", w.Code, w.Body)
				}
				if i%10 == 0 {
					if err := a.accounts.SettleAudit(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		seen := map[string]bool{}
		for _, e := range a.audited() {
			if e.Action != actLogin {
				continue
			}
			var after loginState
			if err := json.Unmarshal([]byte(e.After), &after); err != nil || e.Subject != userName(ana) {
				t.Fatalf("%v: %+v", err, e)
			}
			seen[after.Session] = true
		}
		n := 0
		granted.Range(func(access, _ any) bool {
			n++
			if c, _ := a.claims(access.(string)); !seen[c.Session] {
				t.Errorf("the login of session %s was answered and is not in the audit", c.Session)
			}
			return true
		})
		if n == 0 || len(seen) != n {
			t.Errorf("%d logins were answered, %d are in the audit", n, len(seen))
		}
		t.Logf("%d of %d logins, one chain", n, logins)
	})
}

// Where every transaction is SERIALIZABLE, acts and those who settle don't undo
// each other for good: what was answered is in the chain.
func TestAuditWhereAllIsSerializable(t *testing.T) {
	_, db, _ := serializable(t)
	a := newAuthn(t, db)
	ana, _ := a.register("ana@ejemplo.example")["id"].(string)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for i := range 60 {
		wg.Go(func() {
			if i%6 == 5 {
				if err := a.accounts.SettleAudit(t.Context()); err != nil && !isAborted(err) {
					t.Error(err)
				}
				return
			}
			err := a.store.enqueueRecorded(t.Context(), &outboxRow{ID: uuid.NewString(), Kind: mailVerify, Dedupe: fmt.Sprint(i)}, a.clock.Now(),
				act{what: actEmailRequested, whom: userName(ana)})
			if err != nil && !isAborted(err) {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done++
			}
		})
	}
	wg.Wait()
	got := 0
	for _, e := range a.audited() {
		if e.Action == actEmailRequested {
			got++
		}
	}
	if got != done || done < 25 {
		t.Errorf("%d of 50 acts were answered, %d are in the audit", done, got)
	}
}

// A flood of refusals fills no disk, and none is lost from the counts.
func TestRefusalsAreBounded(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		ana, _ := a.register("ana@ejemplo.example")["id"].(string)
		from := func(i int) context.Context {
			address := netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
			return context.WithValue(t.Context(), peerKey{}, peer{Network: networkOf(address), UserAgent: "flood/1"})
		}
		sum := func() (entries, count, sources int) {
			for _, e := range a.audited() {
				if e.Action != actLoginFailed {
					continue
				}
				var c refusalCount
				if err := json.Unmarshal([]byte(e.After), &c); err != nil {
					t.Fatal(err)
				}
				if c.Sources == 0 && (e.Subject != userName(ana) || e.Origin == "") {
					t.Errorf("it says nothing of whom or from where: %+v", e)
				}
				entries, count, sources = entries+1, count+c.Count, sources+max(1, c.Sources)
			}
			return entries, count, sources
		}
		for range 50 {
			a.accounts.refusals.refused(from(1), actLoginFailed, "ana@ejemplo.example", ErrCredentials)
		}
		if entries, count, _ := sum(); entries != 1 || count != 50 {
			t.Errorf("%d entries for 50 of the same, with a count of %d", entries, count)
		}
		const flood = 12_000
		for i := range flood {
			a.accounts.refusals.refused(from(i), actLoginFailed, "ana@ejemplo.example", ErrCredentials)
		}
		entries, count, sources := sum()
		if entries > refusalBurst+1 || entries < refusalBurst/2 || count != flood+50 || sources != flood+1 {
			t.Errorf("%d entries with a count of %d from %d sources", entries, count, sources)
		}
		for range 30 { // half a minute of it
			a.clock.Add(time.Second)
			for i := range 2000 {
				a.accounts.refusals.refused(from(i), actLoginFailed, "ana@ejemplo.example", &ThrottledError{"login_account", time.Second})
			}
			if err := a.accounts.refusals.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		more, count, _ := sum()
		if more > entries+40 {
			t.Errorf("%d entries more in half a minute", more-entries)
		}
		if count < flood+50+29*2000 {
			t.Errorf("the counts are %d together", count)
		}
		// A refusal that tells nothing isn't counted, and the next is written
		// when there is room again.
		a.clock.Add(time.Hour)
		a.accounts.refusals.refused(from(1), actLoginFailed, "ana@ejemplo.example", errors.New("the database is away"))
		a.accounts.refusals.refused(from(7), actLoginFailed, "ana@ejemplo.example", ErrOTP)
		a.audited()
		newest, err := a.store.audit.Newest(t.Context(), 1)
		if err != nil || newest[0].Reason != reasonWrongOTP || newest[0].Origin != `{"network":"198.51.0.7","user_agent":"flood/1"}` {
			t.Errorf("the newest is %+v, %v", newest, err)
		}
	})
}

// When the database is away, what was refused is logged later.
func TestRefusalsWait(t *testing.T) {
	a := newSQLiteAuthn(t)
	a.accounts.refusals.refused(t.Context(), actLoginFailed, "", ErrCredentials)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.accounts.refusals.flush(gone); err == nil {
		t.Fatal("no error")
	}
	a.accounts.refusals.refused(t.Context(), actLoginFailed, "", ErrCredentials)
	entries := a.audited()
	if len(entries) != 1 || !strings.Contains(entries[0].After, `"count":2`) {
		t.Errorf("the audit is %+v, want one entry of two", entries)
	}
}

// With an account goes where it was used from; the chain stays, and so does
// what happened.
func TestErasureLeavesTheChain(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		ana, _ := a.register("ana@ejemplo.example")["id"].(string)
		luz, _ := a.register("luz@ejemplo.example")["id"].(string)
		access, _ := a.login("ana@ejemplo.example")
		a.login("luz@ejemplo.example")
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "not my password"})
		a.must(202, "DELETE", "/authn/me", access, member{"password": testPassword})
		before := a.audited()
		a.clock.Add(DefaultDeletionGrace + time.Second)
		if err := a.accounts.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "not my password"})
		after := a.audited()
		for i, e := range after {
			about, gone := e.Subject == userName(ana), e.Origin == ""
			if about != gone {
				t.Errorf("entry %d, %s: the origin is %q", e.Seq, said(e, map[string]string{ana: "ana", luz: "luz"}), e.Origin)
			}
			if i < len(before) && e.Hash != before[i].Hash {
				t.Errorf("entry %d has another hash", e.Seq)
			}
		}
		erased := after[len(before)]
		if erased.Actor != actorSystem || erased.Action != actErased || erased.Subject != userName(ana) {
			t.Errorf("the erasure is %+v", erased)
		}
		if last := after[len(after)-1]; last.Action != actLoginFailed || last.Subject != "" {
			t.Errorf("a login at the address afterwards is %+v, want one about nobody", last)
		}
		a.clock.Add(DefaultAuditOrigins + time.Hour)
		if err := a.accounts.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, e := range a.audited() {
			if e.Origin != "" {
				t.Errorf("after the time for which they are kept, entry %d came from %s", e.Seq, e.Origin)
			}
		}
	})
}

// A row that is changed by hand is found, by the database and by what was
// exported from it.
func TestAuditTampering(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		a.login("ana@ejemplo.example")
		access, _ := a.login("ana@ejemplo.example")
		a.must(204, "POST", "/authn/sign_out", access, nil)
		a.audited()
		off := `DROP TRIGGER audit_no_update; DROP TRIGGER audit_no_delete;`
		if db.Kind == database.Postgres {
			off = `DROP TRIGGER audit_append_only ON audit_entries;`
		}
		if _, err := db.Write.Exec(off + `UPDATE audit_entries SET subject = 'user x' WHERE log = 'accounts' AND seq = 3`); err != nil {
			t.Fatal(err)
		}
		head, err := a.store.audit.Verify(t.Context(), nil, nil)
		if !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "entry 3") || head.Seq != 2 {
			t.Errorf("after entry %d: %v, want ErrBroken for entry 3", head.Seq, err)
		}
	})
}
