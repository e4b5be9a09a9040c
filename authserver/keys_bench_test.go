package authserver

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/test/engines"
)

// onDatabase is what a server in production works on, in a new database, with a
// log that is written and goes nowhere.
func onDatabase(b *testing.B, db *database.SQL, set migrations.Set) (*Store, *keys.Keeper, *slog.Logger) {
	b.Helper()
	if _, err := migrations.Up(b.Context(), db.Write.DB, set); err != nil {
		b.Fatal(err)
	}
	sealer, err := testSealer()
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(io.Discard, nil))
	keeper, err := keys.NewKeeper(keys.NewSQLStore(db.Write), sealer, keys.DefaultPolicy(), keys.Options{Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	if err := keeper.Tick(b.Context()); err != nil {
		b.Fatal(err)
	}
	store, err := NewStore(b.Context(), db.Write, db.Read)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	return store, keeper, log
}

// benchmarked is a server as in production, but that its log goes nowhere.
func benchmarked(b *testing.B) *Server {
	b.Helper()
	store, keeper, log := onDatabase(b, engines.SQLite(b), migrations.AuthnSQLite)
	s, err := New(Options{Issuer: testIssuer, Keys: keeper, Log: log, Accounts: NewAccounts(store, AccountsOptions{})})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func medianOf(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkJWKS measures GET of the key set over a loopback connection against
// a bare gorilla/mux handler that writes the same bytes, header fields among
// them, in turns, and reports the ratio of the medians. ns/op is the sum of all.
func BenchmarkJWKS(b *testing.B) {
	s := benchmarked(b)
	set, err := s.issuer.keys.JWKS()
	if err != nil {
		b.Fatal(err)
	}
	sample := httptest.NewRecorder()
	s.ServeHTTP(sample, httptest.NewRequest(http.MethodGet, jwksPath, http.NoBody))
	bare := mux.NewRouter()
	bare.Path(jwksPath).Methods(http.MethodGet).HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range sample.Header() {
			w.Header().Set(name, values[0])
		}
		_, _ = w.Write(sample.Body.Bytes())
	})
	get := func(h http.Handler, etag string) func() time.Duration {
		server := httptest.NewServer(h)
		b.Cleanup(server.Close)
		client := server.Client()
		return func() time.Duration {
			r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, server.URL+jwksPath, http.NoBody)
			if err != nil {
				b.Fatal(err)
			}
			if etag != "" {
				r.Header.Set("If-None-Match", etag)
			}
			began := time.Now()
			answer, err := client.Do(r)
			if err != nil {
				b.Fatal(err)
			}
			_, err = io.Copy(io.Discard, answer.Body)
			took := time.Since(began)
			if want := map[bool]int{true: 304, false: 200}[etag != ""]; err != nil || answer.StatusCode != want {
				b.Fatalf("answered %d, %v; want %d", answer.StatusCode, err, want)
			}
			_ = answer.Body.Close()
			return took
		}
	}
	reference, whole, unchanged := get(bare, ""), get(s, ""), get(s, set.ETag)
	var references, wholes, unchangeds []time.Duration
	for range 50 { // connections, caches
		reference()
		whole()
		unchanged()
	}
	b.ResetTimer()
	for range b.N {
		references, wholes, unchangeds = append(references, reference()), append(wholes, whole()), append(unchangeds, unchanged())
	}
	b.StopTimer()
	bareTime := float64(medianOf(references))
	b.ReportMetric(float64(medianOf(wholes))/bareTime, "x/bare-mux")
	b.ReportMetric(float64(medianOf(unchangeds))/bareTime, "304-x/bare-mux")
}

// BenchmarkIssueDuringRotation issues tokens without a pause while one key after
// the other takes over, and reports how long a token took at the most, and 999
// of 1,000, during rotations beside between them. One core issues, another is
// left for the rotation: with none left the figures would be the scheduler's.
func BenchmarkIssueDuringRotation(b *testing.B) {
	s := benchmarked(b)
	g := &grant{UserID: uuid.NewString(), SessionID: uuid.New(), ClientID: clientID, Audience: InmueblesAudience, Roles: []token.Role{token.RoleUser}}
	var rotating atomic.Bool
	var mu sync.Mutex // guards near and far
	var near, far []time.Duration
	stop := make(chan struct{})
	var issuing sync.WaitGroup
	for range max(1, runtime.GOMAXPROCS(0)-1) {
		issuing.Go(func() {
			var mine [2][]time.Duration
			for {
				select {
				case <-stop:
					mu.Lock()
					far, near = append(far, mine[0]...), append(near, mine[1]...)
					mu.Unlock()
					return
				default:
				}
				i := 0
				if rotating.Load() {
					i = 1
				}
				began := time.Now()
				if _, _, _, err := s.issuer.issue(b.Context(), g); err != nil {
					b.Error(err)
					return
				}
				mine[i] = append(mine[i], time.Since(began))
			}
		})
	}
	b.ResetTimer()
	var last time.Duration
	for range b.N {
		<-time.After(last) // as much time without a rotation as with one
		began := time.Now()
		rotating.Store(true)
		// The stand-by's successor is made within a tick of its own.
		for s.issuer.keys.Ring().Standby(jose.EdDSA) == nil {
			if err := s.issuer.keys.Tick(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.issuer.keys.Rotate(b.Context(), jose.EdDSA, true); err != nil {
			b.Fatal(err)
		}
		rotating.Store(false)
		last = time.Since(began)
	}
	b.StopTimer()
	close(stop)
	issuing.Wait()
	for name, took := range map[string][]time.Duration{"rotating": near, "quiet": far} {
		if len(took) == 0 { // too short to have met one
			continue
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)-1])/1e6, "max-ms-"+name)
		b.ReportMetric(float64(took[len(took)*999/1000])/1e6, "p999-ms-"+name)
	}
}
