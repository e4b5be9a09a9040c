package token

import (
	"encoding/json"
	"errors"
	"testing"
)

func TestAudienceRoundTrip(t *testing.T) {
	for _, tc := range []struct {
		in   string
		out  string
		want error
	}{
		{in: `"inmuebles"`, out: `"inmuebles"`},
		{in: `["inmuebles"]`, out: `"inmuebles"`},
		{in: `["a","b"]`, out: `["a","b"]`},
		{in: `[]`, out: `[]`},
		{in: `null`, want: ErrAudience},
		{in: `7`, want: ErrAudience},
		{in: `{"a":1}`, want: ErrAudience},
		{in: `["a",null]`, want: ErrAudience},
		{in: `["a",7]`, want: ErrAudience},
	} {
		var a Audience
		err := a.UnmarshalJSON([]byte(tc.in))
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v, want %v", tc.in, err, tc.want)
			continue
		}
		if tc.want != nil {
			continue
		}
		if out, _ := json.Marshal(a); string(out) != tc.out {
			t.Errorf("%s: written as %s, want %s", tc.in, out, tc.out)
		}
	}
}

func TestScopesOf(t *testing.T) {
	for _, tc := range []struct {
		roles []Role
		want  string
	}{
		{nil, ""},
		{[]Role{"nobody"}, ""},
		{[]Role{RoleViewer}, "inmuebles:read"},
		{[]Role{RoleUser, RoleViewer}, "inmuebles:read inmuebles:write"},
		{[]Role{RoleAdmin}, "audit:read clients:admin inmuebles:admin inmuebles:read inmuebles:write keys:admin users:admin"},
	} {
		if got := ScopesOf(tc.roles).String(); got != tc.want {
			t.Errorf("ScopesOf(%v) = %q, want %q", tc.roles, got, tc.want)
		}
	}
}

// The claim names are a promise to verifiers in other languages.
func TestClaimsOnTheWire(t *testing.T) {
	got, err := json.Marshal(Claims{
		Issuer: "https://id.example", Subject: "u1", Audience: Audience{"inmuebles"}, ClientID: "c1",
		Expiry: 300, IssuedAt: 0, ID: "j1", Session: "s1", Scope: Scope{"a", "b"}, Roles: []Role{RoleUser},
		UserID: "u1", Use: UseAccess,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"iss":"https://id.example","sub":"u1","aud":"inmuebles","client_id":"c1","exp":300,"iat":0,` +
		`"jti":"j1","sid":"s1","scope":"a b","roles":["user"],"user_id":"u1","token_type":"access"}`
	if string(got) != want {
		t.Errorf("claims are\n%s, want\n%s", got, want)
	}
}
