package engines

import (
	"net/url"
	"testing"
)

func TestWithDatabase(t *testing.T) {
	for _, test := range []struct{ server, want string }{
		{"postgres://u:p@h:1/postgres?sslmode=disable", "postgres://u:p@h:1/mine?sslmode=disable"},
		{"mongodb://h:1/?replicaSet=rs", "mongodb://h:1/mine?replicaSet=rs"},
		{"mongodb://h:1,i:2/?replicaSet=rs", "mongodb://h:1,i:2/mine?replicaSet=rs"},
		{"mongodb://u:p@h/", "mongodb://u:p@h/mine?authSource=admin"},
		{"mongodb://u:p@h/accounts", "mongodb://u:p@h/mine?authSource=accounts"},
		{"mongodb://u:p@h/?authSource=other", "mongodb://u:p@h/mine?authSource=other"},
	} {
		u, err := url.Parse(test.server)
		if err != nil {
			t.Fatal(err)
		}
		if got := withDatabase(u, "mine"); got != test.want {
			t.Errorf("%s becomes %s, want %s", test.server, got, test.want)
		}
	}
}
