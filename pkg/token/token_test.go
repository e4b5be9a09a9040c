package token

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
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
	got, err = json.Marshal(Claims{AuthTime: 1, ACR: ACRTwoFactors, AMR: []string{"pwd", "otp"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := `"auth_time":1,"acr":"aal2","amr":["pwd","otp"]`; !strings.Contains(string(got), want) {
		t.Errorf("claims are\n%s, want %s", got, want)
	}
}

// The manual's table of roles is the one in the code, in both directions.
func TestRolesAreDocumented(t *testing.T) {
	manual, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	cells := func(line string) (cells []string) {
		for _, cell := range strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		return cells
	}
	var columns []string // scopes
	documented := map[Role]string{}
	for line := range strings.Lines(string(manual)) {
		switch row := cells(line); {
		case row[0] == "role":
			for _, name := range row[1:] {
				columns = append(columns, strings.Trim(name, "`"))
			}
		case columns != nil && len(row) == len(columns)+1 && strings.HasPrefix(row[0], "`"):
			role, _, _ := strings.Cut(row[0][1:], "`")
			has := Scope{}
			for i, cell := range row[1:] {
				if cell == "yes" {
					has = append(has, columns[i])
				} else if cell != "" {
					t.Errorf("%s has %q for %s", role, cell, columns[i])
				}
			}
			slices.Sort(has)
			documented[Role(role)] = has.String()
		case columns != nil && !strings.HasPrefix(row[0], "-"):
			for _, role := range Roles() {
				if got, want := documented[role], ScopesOf([]Role{role}).String(); got != want {
					t.Errorf("docs/api.md gives %s %q, the code %q", role, got, want)
				}
			}
			if len(documented) != len(Roles()) {
				t.Errorf("docs/api.md has the roles %v, the code %v", documented, Roles())
			}
			slices.Sort(columns)
			if !slices.Equal(columns, Scopes()) {
				t.Errorf("docs/api.md has the scopes %q, the code %q", columns, Scopes())
			}
			return
		}
	}
	t.Fatal("docs/api.md has no table of roles")
}
