package authserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/test/engines"
)

func TestWeakness(t *testing.T) {
	own := []string{"ana.garcia@inmobiliaria.example", "Ana", "García", "AnaGarcía", "Casas del Sur"}
	for _, tc := range []struct {
		password, want string // a part of the reason
	}{
		{"una frase larga y mía", ""},
		{"correct horse battery staple", ""},
		{"日本語のパスワード", ""},
		{"8 chars!", ""},
		{strings.Repeat("abcd", 32), ""},
		{"", "at least 8"},
		{"7 chars", "at least 8"},
		{"ｱｱｱｱｱｱｱ", "at least 8"},             // 7 after NFKC
		{"ﬃﬃabcd", ""},                        // NFKC makes ten of six
		{strings.Repeat("é", 8), "different"}, // counted in code points
		{strings.Repeat("abcde", 26), "at most 128"},
		{"aaaaaaaa", "different"},
		{"12121212", "different"},
		{"password", "common"},
		{"PassWord1", "common"},
		{"12345678", "common"},
		{"qwertyuiop", "common"},
		{"ana.garcia@inmobiliaria.example", "similar"},
		{"ana.garcia", "similar"},
		{"García99", "similar"},
		{"garcía2024", "similar"},
		{"inmobiliaria1", "similar"},
		{"anagarcia1", "similar"},
		{"casas del sur", "similar"},
		{"casas del norte y del sur", ""},
	} {
		got := weakness(tc.password, own...)
		if (got == "") != (tc.want == "") || !strings.Contains(got.String(), tc.want) {
			t.Errorf("%q: %q, want %q", tc.password, got, tc.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"abc", "abc", 0}, {"ñandú", "nandu", 2}} {
		if got := distance([]rune(tc.a), []rune(tc.b)); got != tc.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestHash(t *testing.T) {
	h, ctx := newHasher(), t.Context()
	phc, err := h.hash(ctx, "contraseña ﬁna")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, phc, password string
		ok                  bool
		want                error
	}{
		{"right", phc, "contraseña ﬁna", true, nil},
		{"the same after NFKC", phc, "contrasen\u0303a fina", true, nil},
		{"wrong", phc, "contraseña Fina", false, nil},
		{"empty", phc, "", false, nil},
		{"nobody", "", "contraseña ﬁna", false, nil},
		{"other parameters", "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$" + "PvgvyXZuGRAsC0j+a8rKgrzpKnb6EDcjgqIbYNDJwHk", "x", false, nil},
		{"other function", strings.Replace(phc, "argon2id", "argon2i", 1), "x", false, errHashFormat},
		{"other version", strings.Replace(phc, "v=19", "v=16", 1), "x", false, errHashFormat},
		{"too much memory", strings.Replace(phc, fmt.Sprint("m=", hashParams.memory), "m=99999999", 1), "x", false, errHashFormat},
		{"no passes", strings.Replace(phc, fmt.Sprint("t=", hashParams.time), "t=0", 1), "x", false, errHashFormat},
		{"cut off", phc[:40], "x", false, errHashFormat},
		{"plain text", "contraseña ﬁna", "contraseña ﬁna", false, errHashFormat},
	} {
		ok, _, err := h.verify(ctx, tc.phc, tc.password)
		if ok != tc.ok || !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, %v, want %v, %v", tc.name, ok, err, tc.ok, tc.want)
		}
	}
}

func FuzzParsePHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$PvgvyXZuGRAsC0j+a8rKgrzpKnb6EDcjgqIbYNDJwHk")
	f.Fuzz(func(t *testing.T, phc string) {
		p, salt, sum, err := parsePHC(phc)
		if err == nil && (p.memory > maxHashMemory || p.time > 16 || p.threads == 0 || len(salt) < 8 || len(sum) > 128) {
			t.Errorf("%q gets past the bounds", phc)
		}
	})
}

// A flood of logins is turned away, not queued without end.
func TestHasherIsBounded(t *testing.T) {
	h, ctx := newHasher(), t.Context()
	if most := max(1, runtime.GOMAXPROCS(0)-1); h.slots < 1 || h.slots > int64(most) {
		t.Fatalf("%d hashes at once, want at most %d: the rest is for short requests", h.slots, most)
	}
	var under []*turn
	for range h.slots * turnsPerSlot {
		u, err := h.enter(ctx)
		if err != nil {
			t.Fatal(err)
		}
		under = append(under, u)
	}
	release := make(chan struct{})
	var running, most atomic.Int64
	ended := make(chan error)
	for _, u := range under {
		go func() {
			ended <- u.do(ctx, hashParams.memory, func() {
				for n := running.Add(1); ; {
					if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
						break
					}
				}
				<-release
				running.Add(-1)
			})
		}()
	}
	gone, leave := context.WithCancel(ctx)
	waited := make(chan error)
	waiting := cap(h.queued) - len(under)
	for range waiting {
		go func() { _, err := h.enter(gone); waited <- err }()
	}
	for len(h.queued) < cap(h.queued) { // the last ones are on their way
		runtime.Gosched()
	}
	for range 1000 {
		if _, err := h.enter(ctx); !errors.Is(err, ErrBusy) {
			t.Fatalf("a full queue: %v, want ErrBusy", err)
		}
	}
	leave()
	for range waiting {
		if err := <-waited; !errors.Is(err, context.Canceled) {
			t.Errorf("a client that left the queue: %v, want context.Canceled", err)
		}
	}
	if err := under[0].do(gone, 0, func() { t.Error("hashed for a client that left") }); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that left in its turn: %v, want context.Canceled", err)
	}
	close(release)
	for _, u := range under {
		if err := <-ended; err != nil {
			t.Error(err)
		}
		u.end()
	}
	if got := most.Load(); got > h.slots {
		t.Errorf("%d hashes at once, want %d at most", got, h.slots)
	}
	if len(h.queued) != 0 || !h.running.TryAcquire(h.slots) || !h.turns.TryAcquire(h.slots*turnsPerSlot) {
		t.Error("places were not given back")
	}
}

// What a flood asks for is refused before the database hears of it, and nobody
// hashes for a client that has left.
func TestFloodOfLogins(t *testing.T) {
	for _, tc := range []struct {
		path   string
		status int // of the answer when there is room
		body   member
	}{
		{"/authn/token", 401, member{"email": "nadie@ejemplo.example", "password": testPassword}},
		{"/authn/restore", 401, member{"email": "nadie@ejemplo.example", "password": testPassword}},
		{"/authn/register", 201, member{"email": "luz@ejemplo.example", "password": testPassword}},
	} {
		t.Run(tc.path, func(t *testing.T) {
			db := engines.SQLite(t)
			if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnSQLite); err != nil {
				t.Fatal(err)
			}
			a := newAuthn(t, db)
			h := a.accounts.hasher
			if w := a.call("POST", tc.path, "", tc.body); w.Code != tc.status {
				t.Fatalf("with room: %d %s, want %d", w.Code, w.Body, tc.status)
			}

			if !h.turns.TryAcquire(h.slots * turnsPerSlot) {
				t.Fatal("a turn wasn't given back")
			}
			leaves, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			w := httptest.NewRecorder()
			a.ServeHTTP(w, a.request("POST", tc.path, "", tc.body).WithContext(leaves))
			if w.Code < 499 || len(h.queued) != 0 {
				t.Errorf("a client that left: %d %s, %d in the queue", w.Code, w.Body, len(h.queued))
			}

			for range cap(h.queued) {
				h.queued <- struct{}{}
			}
			if err := db.Close(); err != nil { // who asks it now gets an error
				t.Fatal(err)
			}
			a.log.Reset()
			w = a.call("POST", tc.path, "", tc.body)
			if w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(a.log.String(), ErrBusy.Error()) {
				t.Errorf("a full queue: %d %v %s, want 503 with Retry-After; the log says %s", w.Code, w.Header(), w.Body, a.log)
			}
		})
	}
}

// A form that comes a byte a second is given up.
func TestSlowForm(t *testing.T) {
	db := engines.SQLite(t)
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnSQLite); err != nil {
		t.Fatal(err)
	}
	a := newAuthn(t, db)
	w := &hurried{ResponseRecorder: httptest.NewRecorder()}
	r := a.request("POST", "/oauth2/token", "", nil)
	r.Header.Set("Content-Type", formType)
	r.Body = io.NopCloser(iotest.ErrReader(os.ErrDeadlineExceeded)) // as a connection does
	a.ServeHTTP(w, r)
	if w.Code != 408 || w.within > formTimeout || w.within < formTimeout/2 {
		t.Errorf("%d %s, with %v for the body, want 408 and %v", w.Code, w.Body, w.within, formTimeout)
	}
}

// hurried is a recorder that knows how long a body may take.
type hurried struct {
	*httptest.ResponseRecorder
	within time.Duration
}

func (h *hurried) SetReadDeadline(t time.Time) error {
	h.within = time.Until(t)
	return nil
}

// The promise is ≤ 1.05 × the bare function, measured in turns: the machine's
// mood changes.
func BenchmarkVerify(b *testing.B) {
	const password = "una frase larga y mía"
	h := newHasher()
	phc, err := h.hash(b.Context(), password)
	if err != nil {
		b.Fatal(err)
	}
	p, salt := hashParams, make([]byte, saltSize)
	var ours, bare []time.Duration
	for b.Loop() {
		began := time.Now()
		if ok, _, err := h.verify(b.Context(), phc, password); !ok || err != nil {
			b.Fatal(ok, err)
		}
		between := time.Now()
		argon2.IDKey([]byte(password), salt, p.time, p.memory, p.threads, hashSize)
		ours, bare = append(ours, between.Sub(began)), append(bare, time.Since(between))
	}
	slices.Sort(ours)
	slices.Sort(bare)
	b.ReportMetric(float64(ours[len(ours)/2])/float64(bare[len(bare)/2]), "x/argon2id")
}

// An address that is taken has one line, and is found again however its case
// is written.
func FuzzParseEmail(f *testing.F) {
	for _, s := range []string{"ana@ejemplo.example", "ANA@Ejemplo.Example", "ñ@ñ.example", "a@b\r\nc: d", "\"a b\"@c.example", "a@[127.0.0.1]", "ﬁ@x.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		email, key, err := parseEmail(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(email, "\r\n\x00 <>") || len(email) > maxEmail {
			t.Errorf("%q is taken as the address %q", s, email)
		}
		if foldEmail(email) != key || foldEmail(key) != key {
			t.Errorf("%q folds to %q, which folds to %q", s, key, foldEmail(key))
		}
		if _, upper, err := parseEmail(strings.ToUpper(email)); err == nil && upper != key && strings.EqualFold(upper, key) {
			t.Errorf("%q and its upper case are two users: %q, %q", s, key, upper)
		}
	})
}
