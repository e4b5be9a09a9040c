package authserver

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/i18n/i18ntest"
)

// TestLanguages: whatever is refused is refused in the client's language, with
// codes that are the same in all.
func TestLanguages(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		sealer, err := testSealer()
		if err != nil {
			t.Fatal(err)
		}
		a := newAuthn(t, db, func(o *Options) {
			o.Accounts = NewAccounts(o.Accounts.store, AccountsOptions{ // without limits: each is asked again and again
				Now: o.Now, Sealer: sealer, Limits: &Limits{}, Mail: MailOptions{Mailer: &postbox{}, URL: testIssuer, Verify: VerifyOff},
			})
		})
		ana, _ := a.loggedIn("ana@ejemplo.example")
		gone, _ := a.loggedIn("gone@ejemplo.example")
		a.must(202, "DELETE", "/authn/me", gone, member{"password": testPassword})
		guarded, _ := a.loggedIn("guarded@ejemplo.example")
		a.secondFactor(guarded)
		root := a.administrator("root@ejemplo.example", AdminAudience)
		a.forward(time.Second) // a stand-by
		retired := a.signing(jose.EdDSA).ID
		a.must(200, "POST", "/admin/keys/rotate", root, member{"alg": "EdDSA", "emergency": true})
		a.forward(time.Second)

		long := strings.Repeat("ñ", 300)
		register := func(change ...string) member {
			m := member{"email": "nueva@ejemplo.example", "password": testPassword, "first_name": "Nueva", "company": "Casas del Sur"}
			for i := 0; i < len(change); i += 2 {
				m[change[i]] = change[i+1]
			}
			return m
		}
		for _, tc := range []struct {
			method, path, bearer string
			body                 any
			status               int
			code                 string
		}{
			{"GET", "/authn/nowhere", "", nil, 404, "no_such_path"},
			{"PUT", "/authn/token", "", nil, 405, "method_not_allowed"},

			{"POST", "/authn/register", "", register("email", "ana@ejemplo.example"), 409, "email_taken"},
			{"POST", "/authn/register", "", register("email", "ana"), 422, "validation_failed"},
			{"POST", "/authn/register", "", register("email", "a..b@ejemplo..example"), 422, "validation_failed"},
			{"POST", "/authn/register", "", register("email", strings.Repeat("a", 250)+"@ejemplo.example"), 422, "validation_failed"},
			{"POST", "/authn/register", "", register("password", "corta"), 422, "validation_failed"},
			{"POST", "/authn/register", "", register("password", strings.Repeat("larga ", 30)), 422, "validation_failed"},
			{"POST", "/authn/register", "", register("password", "aaaaaaaaaa"), 422, "validation_failed"},
			{"POST", "/authn/register", "", register("password", "qwertyuiop"), 422, "validation_failed"},
			{"POST", "/authn/register", "", register("password", "casas del sur"), 422, "validation_failed"},
			{"POST", "/authn/register", "", register("first_name", "a\u0007b", "last_name", long, "language", "xx"), 422, "validation_failed"},
			{"POST", "/authn/register", "", register("last_name", "a\u0007b"), 422, "validation_failed"},
			{"POST", "/authn/register", "", register("nickname", "x"), 422, "validation_failed"},
			{"POST", "/authn/register", "", member{}, 422, "validation_failed"},
			{"POST", "/authn/register", "", `{"email":`, 400, "malformed"},
			{"POST", "/authn/register", "", ``, 400, "malformed"},
			{"POST", "/authn/register", "", strings.Repeat(" ", 70<<10), 413, "too_large"},

			{"POST", "/authn/token", "", member{"email": "ana@ejemplo.example", "password": "not my password"}, 401, "wrong_credentials"},
			{"POST", "/authn/token", "", member{"email": "gone@ejemplo.example", "password": testPassword}, 401, "account_deleted"},
			{"POST", "/authn/token", "", member{"email": "guarded@ejemplo.example", "password": testPassword}, 401, "otp_required"},
			{"POST", "/authn/token", "", member{"email": "guarded@ejemplo.example", "password": testPassword, "otp": "000"}, 401, "wrong_otp"},
			{"POST", "/authn/token", "", member{"email": "a@b.example", "username": "c@d.example", "password": testPassword}, 400, "validation_failed"},
			{"POST", "/authn/token", "", member{"password": testPassword}, 400, "validation_failed"},
			{"POST", "/authn/token", "", member{"email": "a@b.example"}, 400, "validation_failed"},
			{"POST", "/authn/token", "", member{"email": 7, "password": []int{1}}, 400, "validation_failed"},
			{"POST", "/authn/token", "", member{"email": "a@b.example", "password": "x", "audience": "a b"}, 400, "validation_failed"},
			{"POST", "/authn/token", "", `[`, 400, "malformed"},
			{"POST", "/authn/token/refresh", "", member{"refresh": "udr_x"}, 401, "invalid_refresh_token"},
			{"POST", "/authn/token/refresh", "", member{}, 400, "validation_failed"},
			{"POST", "/authn/sign_out", "", nil, 401, "invalid_token"},

			{"GET", "/authn/me", "", nil, 401, "invalid_token"},
			{"GET", "/authn/me?x=1", ana, nil, 422, "validation_failed"},
			{"PATCH", "/authn/me", ana, member{"language": "xx", "first_name": long, "company": "a\nb"}, 422, "validation_failed"},
			{"PATCH", "/authn/me", ana, member{"language": "xx", "company": "a\nb"}, 422, "validation_failed"},
			{"PATCH", "/authn/me", ana, member{"email": "x"}, 422, "validation_failed"},
			{"POST", "/authn/me/password", ana, member{"current_password": "not my password", "new_password": "otra frase larga y mía"}, 403, "wrong_password"},
			{"POST", "/authn/me/password", ana, member{"current_password": testPassword, "new_password": "12345678"}, 422, "validation_failed"},
			{"DELETE", "/authn/me", ana, member{"password": "not my password"}, 403, "wrong_password"},
			{"DELETE", "/authn/me", guarded, member{"password": testPassword}, 401, "insufficient_user_authentication"},
			{"DELETE", "/authn/me/totp", guarded, member{"password": testPassword, "otp": "1"}, 403, "wrong_otp"},
			{"POST", "/authn/me/totp", guarded, member{"password": testPassword}, 409, "second_factor_state"},
			{"POST", "/authn/me/totp/confirm", ana, member{"code": "123456"}, 409, "second_factor_state"},
			{"DELETE", "/authn/sessions/01234567-89ab-7def-8123-456789abcdef", ana, nil, 404, "not_found"},
			{"DELETE", "/authn/sessions/x", ana, nil, 422, "validation_failed"},
			{"POST", "/authn/restore", "", member{"email": "nobody@ejemplo.example", "password": "x"}, 401, "wrong_credentials"},

			{"POST", "/authn/me/email", ana, member{"email": "root@ejemplo.example", "password": "not my password"}, 403, "wrong_password"},
			{"POST", "/authn/email/confirm", "", member{"token": "udl_x"}, 400, "invalid_link"},
			{"POST", "/authn/password/reset", "", member{"email": "x"}, 422, "validation_failed"},
			{"POST", "/authn/password/reset/confirm", "", member{"token": "udl_x", "new_password": "otra frase larga y mía"}, 400, "invalid_link"},

			{"GET", "/admin/keys", ana, nil, 403, "insufficient_scope"},
			{"GET", "/admin/keys/history?limit=0", root, nil, 422, "validation_failed"},
			{"GET", "/admin/keys/history?limit=1001", root, nil, 422, "validation_failed"},
			{"GET", "/admin/keys/history?limit=x", root, nil, 422, "validation_failed"},
			{"GET", "/admin/keys/history?limit=1&limit=2", root, nil, 422, "validation_failed"},
			{"POST", "/admin/keys/rotate", root, member{"alg": "none"}, 422, "validation_failed"},
			{"POST", "/admin/keys/rotate", root, member{"alg": "PS256"}, 404, "no_such_key"},
			{"POST", "/admin/keys/rotate", root, member{"alg": "EdDSA", "to": retired, "emergency": true}, 409, "not_standby"},
			{"POST", "/admin/keys/x/revoke", root, member{"reason": "lost"}, 404, "no_such_key"},
			{"POST", "/admin/keys/x/revoke", root, member{"reason": ""}, 422, "validation_failed"},
			{"POST", "/admin/keys/x/revoke", root, member{"reason": " "}, 422, "validation_failed"},
			{"POST", "/admin/keys/x!/revoke", root, member{"reason": "x"}, 422, "validation_failed"},
		} {
			t.Run(tc.method+" "+tc.path, func(t *testing.T) {
				w := i18ntest.Problem(t, a, func() *http.Request {
					r := a.request(tc.method, tc.path, tc.bearer, tc.body)
					if tc.method == http.MethodPatch {
						r.Header.Set("Content-Type", "application/merge-patch+json")
					}
					return r
				})
				if w.Code != tc.status || !strings.Contains(w.Body.String(), `"code":"`+tc.code+`"`) {
					t.Errorf("%d %s, want %d %s", w.Code, w.Body, tc.status, tc.code)
				}
			})
		}
	})
}

// loggedIn registers a user and logs in.
func (a *authn) loggedIn(email string) (access, refresh string) {
	a.t.Helper()
	a.register(email)
	return a.login(email)
}

// secondFactor turns one on.
func (a *authn) secondFactor(access string) {
	a.t.Helper()
	m := a.must(200, "POST", "/authn/me/totp", access, member{"password": testPassword})
	a.must(200, "POST", "/authn/me/totp/confirm", access, member{"code": a.code(m["secret"].(string))})
}

// TestThrottledInSpanish: the answers that aren't errors of a request.
func TestThrottledInSpanish(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		a := newThrottled(t, db, Limits{LoginNetwork: Limit{Max: 1, Window: time.Hour}})
		a.try("192.0.2.1", "nobody@ejemplo.example", "x")
		w := i18ntest.Problem(t, a, func() *http.Request {
			r := a.request("POST", "/authn/token", "", member{"email": "nobody@ejemplo.example", "password": "x"})
			r.RemoteAddr = "192.0.2.1:1"
			return r
		})
		if w.Code != 429 {
			t.Errorf("%d, want 429", w.Code)
		}
	})
}

// TestOAuthIsEnglish: RFC 6749 §5.2 has ASCII only, so that the descriptions
// of errors at /oauth2 are English whatever the client asks for.
func TestOAuthIsEnglish(t *testing.T) {
	a := newSQLiteAuthn(t)
	for _, form := range []url.Values{
		{},
		{"grant_type": {"password"}},
		{"grant_type": {"client_credentials"}},
		{"grant_type": {"x", "y"}},
		{"grant_type": {"refresh_token"}},
		{"grant_type": {"refresh_token"}, "refresh_token": {"udr_x"}},
		{"grant_type": {"refresh_token"}, "refresh_token": {"\u00f1"}},
		{"grant_type": {"client_credentials"}, "client_assertion": {"x"}},
	} {
		var said [2]string
		for i, language := range []string{"en", "es"} {
			r := httptest.NewRequestWithContext(t.Context(), "POST", tokenPath, strings.NewReader(form.Encode()))
			r.Header.Set("Content-Type", formType)
			r.Header.Set("Accept-Language", language)
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			said[i] = w.Body.String()
		}
		if said[0] != said[1] || strings.ContainsFunc(said[0], func(r rune) bool { return r > '~' || r == '\\' }) {
			t.Errorf("%v: %s", form, said)
		}
	}
}
