package authserver

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/urbandata/urbandata/pkg/cli/database"
)

// questions are requests that must take as long for an address that somebody
// has as for one that nobody has.
var questions = []struct {
	name   string
	verify Verification
	path   string
	status int
	body   func(email string) member
}{
	{"login", VerifyOff, "/authn/token", 401, func(email string) member { return member{"email": email, "password": "not my password"} }},
	{"restore", VerifyOff, "/authn/restore", 401, func(email string) member { return member{"email": email, "password": "not my password"} }},
	{"reset", VerifyOff, "/authn/password/reset", 202, func(email string) member { return member{"email": email} }},
	{"register", VerifyRequired, "/authn/register", 202, func(email string) member { return member{"email": email, "password": testPassword} }},
}

// ask times a question about known and unknown addresses, in turns, so that
// both meet the machine in the same moods.
func ask(t testing.TB, a *mailing, i, rounds int) (known, unknown []time.Duration) {
	q := questions[i]
	users := make([]string, rounds)
	for n := range users {
		users[n] = fmt.Sprintf("known-%d@ejemplo.example", n)
		hash := "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$PvgvyXZuGRAsC0j+a8rKgrzpKnb6EDcjgqIbYNDJwHk"
		if n%2 == 0 { // imported, and dearer
			hash = "pbkdf2_sha256$60000$saltysalt$zn8M8+DNM9k1WPn+S4EpBsSakqfoOGPaW9llo4ykpRg="
		}
		err := a.store.insertUser(t.Context(), &userRow{ID: uuid.NewString(), Email: users[n], EmailKey: users[n], PasswordHash: hash, Roles: "user"}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	one := func(email string) time.Duration {
		began := time.Now()
		w := a.call("POST", q.path, "", q.body(email))
		took := time.Since(began)
		if w.Code != q.status {
			t.Fatalf("%s: %d, want %d: %s", q.name, w.Code, q.status, w.Body)
		}
		return took
	}
	for n := range rounds {
		known = append(known, one(users[n]))
		unknown = append(unknown, one(fmt.Sprintf("known-%d@ejemplo.exampld", n))) // before the known one, so that its cost is taken
	}
	return known, unknown
}

func newAsked(t *testing.T, db *database.SQL, verify Verification) *mailing {
	m := &mailing{box: &postbox{}}
	m.authn = newAuthn(t, db, func(o *Options) {
		o.Accounts = NewAccounts(o.Accounts.store, AccountsOptions{
			Now: o.Now, Limits: &Limits{}, Mail: MailOptions{Mailer: m.box, URL: testIssuer, Verify: verify},
		})
	})
	return m
}

// The times of answers don't tell which addresses are known: if one of each
// kind is drawn, which is the slower one is a matter of chance. No time is
// judged by itself; a hash that is left out would win or lose nearly always.
func TestTimesDontTell(t *testing.T) {
	onBothEngines(t, func(t *testing.T, db *database.SQL) {
		for i, q := range questions {
			const rounds = 24
			known, unknown := ask(t, newAsked(t, db, q.verify), i, rounds)
			if _, err := db.Write.ExecContext(t.Context(), "DELETE FROM users"); err != nil {
				t.Fatal(err)
			}
			slower := 0
			for _, k := range known {
				for _, u := range unknown {
					if k > u {
						slower++
					}
				}
			}
			share := float64(slower) / (rounds * rounds)
			slices.Sort(known)
			slices.Sort(unknown)
			t.Logf("%s: the known one is slower in %.0f %%; medians %v and %v", q.name, 100*share, known[rounds/2], unknown[rounds/2])
			if share < 0.1 || share > 0.9 {
				t.Errorf("%s tells which addresses are known: the known one is slower in %.0f %% of pairs", q.name, 100*share)
			}
		}
	})
}
