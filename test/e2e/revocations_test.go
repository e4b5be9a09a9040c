package e2e

import (
	"net/http"
	"testing"
)

// TestEndedSessions: whatever ends a session at one replica of authn, or by a
// command, ends it at every replica of inmuebles while its access token has
// minutes to live, and a restart of everything forgets none.
func TestEndedSessions(t *testing.T) {
	everyWay(t, func(t *testing.T, in *installation) {
		c := in.client
		s := in.start(nil)
		auth, other := s.auths()
		p, q := c.newPerson(), c.newPerson()
		c.register(auth, p)
		c.register(auth, q)
		first, second, third := c.login(auth, p), c.login(other, p), c.login(auth, p)
		disabled := c.login(other, q)
		refused := func(what, token string) {
			t.Helper()
			for _, base := range s.api {
				eventually(t, base+" refuses a token after "+what, func() bool {
					a, err := c.try(http.MethodGet, base+"/inmuebles?limit=1", nil, bearer(token))
					return err == nil && a.status == http.StatusUnauthorized
				})
			}
		}
		taken := func(token string) {
			t.Helper()
			for _, base := range s.api {
				c.want(http.StatusOK, http.MethodGet, base+"/inmuebles?limit=1", nil, bearer(token))
			}
		}
		for _, each := range []pair{first, second, third, disabled} {
			taken(each.Access)
		}

		c.want(http.StatusNoContent, http.MethodPost, auth+"/authn/sign_out", nil, bearer(first.Access))
		refused("a sign-out", first.Access)
		taken(second.Access)
		c.want(http.StatusNoContent, http.MethodDelete, other+"/authn/sessions/others", nil, bearer(second.Access))
		refused("the end of all other sessions", third.Access)
		taken(second.Access)
		must(t, settings{"URBANDATA_AUTH_DATABASE": in.authDatabase}, "", "users", "disable", q.email)
		refused("urbandata users disable", disabled.Access)
		taken(second.Access)
		s.stop()

		s = in.start(nil)
		refused("a restart", first.Access)
		refused("a restart", third.Access)
		refused("a restart", disabled.Access)
		taken(second.Access)
		s.stop()
	})
}
