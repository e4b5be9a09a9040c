package authserver

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

func (a *authn) code(secret string) string {
	a.t.Helper()
	code, err := totp.GenerateCode(secret, a.clock.Now())
	if err != nil {
		a.t.Fatal(err)
	}
	return code
}

// enrol turns a user's second factor on.
func (a *authn) enrol(access string) (secret string, recovery []string) {
	a.t.Helper()
	m := a.must(200, "POST", "/authn/me/totp", access, member{"password": testPassword})
	secret = m["secret"].(string)
	m = a.must(200, "POST", "/authn/me/totp/confirm", access, member{"code": a.code(secret)})
	for _, c := range m["recovery_codes"].([]any) {
		recovery = append(recovery, c.(string))
	}
	return secret, recovery
}

// howLoggedIn are the claims of a token about its login.
func howLoggedIn(t *testing.T, access string) string {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(access, ".")[1])
	var c struct {
		AuthTime int64 `json:"auth_time"`
		ACR      string
		AMR      []string
	}
	if err == nil {
		err = json.Unmarshal(payload, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(c.AuthTime, " ", c.ACR, " ", c.AMR)
}

func TestSecondFactor(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		a.register("ana@ejemplo.example")
		access, refresh := a.login("ana@ejemplo.example")
		began := a.clock.Now().Unix()
		if got := howLoggedIn(t, access); got != fmt.Sprint(began, " aal1 [pwd]") {
			t.Errorf("a login by password: %s", got)
		}
		a.must(403, "POST", "/authn/me/totp", access, member{"password": "not my password"})
		a.must(409, "POST", "/authn/me/totp/confirm", access, member{"code": "123456"})
		a.must(409, "DELETE", "/authn/me/totp", access, member{"password": testPassword})
		a.must(409, "POST", "/authn/me/recovery_codes", access, member{"password": testPassword})

		m := a.must(200, "POST", "/authn/me/totp", access, member{"password": testPassword})
		secret := m["secret"].(string)
		u, err := url.Parse(m["uri"].(string))
		if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/127.0.0.1:ana@ejemplo.example" ||
			u.Query().Get("secret") != secret || u.Query().Get("issuer") != "127.0.0.1" {
			t.Errorf("%v %v", u, err)
		}
		login := func(code string) member {
			return member{"email": "ana@ejemplo.example", "password": testPassword, "otp": code}
		}
		a.must(200, "POST", "/authn/token", "", login("")) // offered isn't on
		if m := a.must(403, "POST", "/authn/me/totp/confirm", access, member{"code": "x"}); m["code"] != "wrong_otp" {
			t.Errorf("%v", m)
		}
		_, recovery := a.enrol(access) // another offer takes the place of the first
		a.must(409, "POST", "/authn/me/totp", access, member{"password": testPassword})
		if len(recovery) != recoveryCodes {
			t.Fatalf("recovery codes %v", recovery)
		}
		if m := a.must(200, "GET", "/authn/me", access, nil); m["second_factor"] != true {
			t.Errorf("me: %v", m)
		}
		a.forward(time.Minute)
		if m := a.must(401, "POST", "/authn/token", "", login(a.code(secret))); m["code"] != "wrong_otp" {
			t.Errorf("the secret of the first offer: %v", m)
		}
		row := a.must(401, "POST", "/authn/token", "", login(""))
		if row["code"] != "otp_required" || row["error"] != "invalid_grant" {
			t.Errorf("without a code: %v", row)
		}
		if m := a.must(401, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "not my password", "otp": recovery[0]}); m["code"] != "wrong_credentials" {
			t.Errorf("a wrong password: %v", m)
		}

		// A recovery code works once, however it is typed.
		m = a.must(200, "POST", "/authn/token", "", login(strings.ToUpper(strings.ReplaceAll(recovery[0], "-", " "))))
		if got := howLoggedIn(t, m["access"].(string)); got != fmt.Sprint(a.clock.Now().Unix(), " aal2 [pwd otp mfa]") {
			t.Errorf("a login by two factors: %s", got)
		}
		at := a.clock.Now().Unix()
		a.forward(time.Minute)
		m = a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": m["refresh"]})
		if got := howLoggedIn(t, m["access"].(string)); got != fmt.Sprint(at, " aal2 [pwd otp mfa]") {
			t.Errorf("its refresh: %s", got)
		}
		a.must(401, "POST", "/authn/token", "", login(recovery[0]))

		// Sessions from before go on, as what they are.
		m = a.must(200, "POST", "/authn/token/refresh", "", member{"refresh": refresh})
		if got := howLoggedIn(t, m["access"].(string)); got != fmt.Sprint(began, " aal1 [pwd]") {
			t.Errorf("the refresh of a login by password: %s", got)
		}
		access = m["access"].(string)

		// What asks for both factors.
		if m := a.must(403, "DELETE", "/authn/me/totp", access, member{"password": testPassword}); m["code"] != "otp_required" {
			t.Errorf("%v", m)
		}
		m = a.must(200, "POST", "/authn/me/recovery_codes", access, member{"password": testPassword, "otp": recovery[1]})
		fresh := m["recovery_codes"].([]any)
		a.must(401, "POST", "/authn/token", "", login(recovery[2]))                                   // the old ones are gone
		a.must(401, "DELETE", "/authn/me", access, member{"password": testPassword, "otp": fresh[1]}) // begun before the factor: stepup_test.go
		m = a.must(200, "POST", "/authn/token", "", login(fresh[0].(string)))
		if m := a.must(403, "DELETE", "/authn/me", m["access"].(string), member{"password": testPassword, "otp": fresh[0]}); m["code"] != "wrong_otp" {
			t.Errorf("%v", m)
		}
		a.must(202, "DELETE", "/authn/me", m["access"].(string), member{"password": testPassword, "otp": fresh[1]})
		a.must(401, "POST", "/authn/restore", "", login(""))
		if m := a.must(401, "POST", "/authn/token", "", login(fresh[2].(string))); m["code"] != "account_deleted" {
			t.Errorf("%v", m)
		}
		a.must(204, "POST", "/authn/restore", "", login(fresh[3].(string)))
		m = a.must(200, "POST", "/authn/token", "", login(fresh[4].(string)))
		a.must(204, "DELETE", "/authn/me/totp", m["access"].(string), member{"password": testPassword, "otp": fresh[5]})
		a.must(200, "POST", "/authn/token", "", login(""))

		access, _ = a.login("ana@ejemplo.example")
		a.enrol(access)
		if err := a.accounts.RemoveSecondFactor(t.Context(), "ANA@ejemplo.example"); err != nil {
			t.Fatal(err)
		}
		a.login("ana@ejemplo.example")
		var left int
		if err := db.Write.Get(&left, "SELECT (SELECT count(*) FROM second_factors) + (SELECT count(*) FROM recovery_codes)"); err != nil || left != 0 {
			t.Errorf("%d rows are left (%v)", left, err)
		}
	})
}

// A code is taken once, also of a hundred at the same moment, and within a
// step of its time.
func TestCodesAreTakenOnce(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newThrottled(t, db, Limits{})
		sealer, err := testSealer()
		if err != nil {
			t.Fatal(err)
		}
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
		try := func(code string) int {
			return a.call("POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword, "otp": code}).Code
		}
		if got := try(a.code(secret)); got != 401 {
			t.Errorf("the code that turned it on: %d", got)
		}
		a.forward(2 * otpPeriod)
		code := a.code(secret)
		codes := make([]int, 24)
		var wg sync.WaitGroup
		for i := range codes {
			wg.Go(func() { codes[i] = try(code) })
		}
		wg.Wait()
		count := map[int]int{}
		for _, c := range codes {
			count[c]++
		}
		if count[200] != 1 || count[401] != len(codes)-1 {
			t.Errorf("statuses %v, want one 200", count)
		}
		at := func(steps int) string {
			code, err := totp.GenerateCode(secret, a.clock.Now().Add(time.Duration(steps)*otpPeriod))
			if err != nil {
				t.Fatal(err)
			}
			return code
		}
		a.forward(10 * otpPeriod)
		for _, tc := range []struct{ steps, want int }{{-2, 401}, {2, 401}, {-1, 200}, {-1, 401}, {0, 200}, {-1, 401}, {1, 200}, {0, 401}, {1, 401}} {
			if got := try(at(tc.steps)); got != tc.want {
				t.Errorf("a code of %d steps from now: %d, want %d", tc.steps, got, tc.want)
			}
		}
	})
}

// Wrong codes count as wrong passwords do, and the right password before each
// forgets nothing.
func TestCodesAreThrottled(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newThrottled(t, db, Limits{LoginDevice: Limit{3, time.Hour}})
		sealer, err := testSealer()
		if err != nil {
			t.Fatal(err)
		}
		a.accounts.options.Sealer = sealer
		a.register("ana@ejemplo.example")
		user, err := a.store.findUser(t.Context(), "ana@ejemplo.example")
		if err != nil {
			t.Fatal(err)
		}
		secret, _, err := a.accounts.offerSecondFactor(t.Context(), user, testPassword, testIssuer)
		if err == nil {
			_, err = a.accounts.confirmSecondFactor(t.Context(), user, a.code(secret))
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []int{401, 401, 401, 429} {
			if got := a.call("POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword, "otp": "not a code"}).Code; got != want {
				t.Errorf("try %d: %d, want %d", i, got, want)
			}
		}
	})
}

// Secrets are sealed, bound to their user, and sealed anew by a new key.
func TestSecondFactorsAreSealed(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newAuthn(t, db)
		first, second := keys.GenerateSealingKey(), keys.GenerateSealingKey()
		use := func(newest keys.SealingKey, others ...keys.SealingKey) {
			t.Helper()
			sealer, err := keys.NewSealer(newest, others...)
			if err != nil {
				t.Fatal(err)
			}
			a.accounts.options.Sealer = sealer
		}
		use(first)
		a.register("ana@ejemplo.example")
		a.register("eva@ejemplo.example")
		access, _ := a.login("ana@ejemplo.example")
		secret, _ := a.enrol(access)
		others, _ := a.login("eva@ejemplo.example")
		a.enrol(others)
		login := func(status int) {
			t.Helper()
			a.forward(time.Minute)
			a.must(status, "POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": testPassword, "otp": a.code(secret)})
		}
		login(200)
		use(second, first)
		login(200)
		if err := a.accounts.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		use(second)
		login(200)

		var rows []factorRow
		if err := db.Write.Select(&rows, selectFactor+" ORDER BY user_id"); err != nil || len(rows) != 2 {
			t.Fatal(rows, err)
		}
		raw, err := base32Encoding.DecodeString(secret)
		if err != nil || strings.Contains(string(rows[0].Sealed)+string(rows[1].Sealed), string(raw)) {
			t.Errorf("the secret is stored as it is (%v)", err)
		}
		if _, err := db.Write.Exec(db.Write.Rebind("UPDATE second_factors SET sealed = ? WHERE user_id = ?"), rows[1].Sealed, rows[0].UserID); err != nil {
			t.Fatal(err)
		}
		login(500) // moved from another user: it doesn't open
	})
}
