package authserver

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/test/engines"
)

// running is a replica on a port.
type running struct {
	*authn
	url string
}

// replicas starts two of authn on one PostgreSQL, which listen to it, by the
// clock of the world.
func replicas(t *testing.T) [2]running {
	t.Helper()
	url := engines.PostgresURL(t)
	db, err := database.OpenSQL(t.Context(), url, database.Full)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnPostgres); err != nil {
		t.Fatal(err)
	}
	var both [2]running
	for i := range both {
		a := newAuthn(t, db, func(o *Options) { o.Now, o.Log = time.Now, slog.New(slog.DiscardHandler) })
		server := httptest.NewServer(a.Handler)
		both[i] = running{a, server.URL}
		ctx, cancel := context.WithCancel(context.Background())
		var group sync.WaitGroup
		group.Go(func() { a.Run(ctx) })
		group.Go(func() { _ = keys.ListenOn(ctx, database.PostgresDSN(url), RevocationsChannel, a.Server.log, a.Wake) })
		t.Cleanup(func() {
			a.Health.Drain()
			server.Close()
			cancel()
			group.Wait()
		})
	}
	return both
}

// live starts a session and returns its access token, as a login does.
func (r running) live(t *testing.T, user *userRow) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	refresh, markKey := newFamily(id)
	now := time.Now()
	err = r.store.startSession(t.Context(), &newSession{
		ID: id, UserID: user.ID, ClientID: clientID, Audience: InmueblesAudience, MarkKey: markKey, CurrentHash: refresh.hash(),
		CreatedAt: now, IdleExpiresAt: now.Add(time.Hour), ExpiresAt: now.Add(time.Hour), AMR: "pwd",
	}, user.PasswordHash)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _, err := r.issuer.issue(t.Context(), &grant{
		SessionID: id, UserID: user.ID, ClientID: clientID, Audience: InmueblesAudience, Roles: []token.Role{token.RoleUser}, AuthTime: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// resource starts a resource server that follows a replica.
func (r running) resource(t *testing.T) (url string, v *verify.Verifier) {
	t.Helper()
	var once sync.Once
	streaming := make(chan struct{})
	v, err := verify.New(verify.Options{
		Hooks: verify.Hooks{Followed: func(n verify.Following) {
			if n.Streaming {
				once.Do(func() { close(streaming) })
			}
		}},
		Issuer: testIssuer, Audience: InmueblesAudience, JWKSURL: r.url + jwksPath, TokenCacheBytes: verify.DefaultTokenCacheBytes,
		Revocations: verify.RevocationOptions{URL: r.url + revocationsPath},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = v.Run(ctx) })
	server := httptest.NewServer(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })))
	t.Cleanup(func() {
		server.Close()
		cancel()
		group.Wait()
	})
	<-streaming
	return server.URL, v
}

// TestEndedEverywhere signs 1,000 sessions out, at two replicas on PostgreSQL,
// and asks three resource servers for each until all refuse it. It prints how
// long that took from the answer to the sign-out on.
func TestEndedEverywhere(t *testing.T) {
	const signOuts, workers, patience = 1000, 8, time.Minute
	both := replicas(t)
	both[0].register("ana@ejemplo.example")
	user, err := both[0].store.findUser(t.Context(), "ana@ejemplo.example")
	if err != nil {
		t.Fatal(err)
	}
	var servers [3]string
	var verifiers [3]*verify.Verifier
	for i := range servers {
		servers[i], verifiers[i] = both[i%2].resource(t) // one replica has two verifiers, the other one
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8 * workers}}
	ask := func(method, url, bearer string) int {
		r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		r.Header.Set("Authorization", "Bearer "+bearer)
		response, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return response.StatusCode
	}

	var mu sync.Mutex // guards took
	var took []time.Duration
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			for n := worker; n < signOuts; n += workers {
				at := both[n%2]
				access := at.live(t, user)
				for _, server := range servers {
					if status := ask(http.MethodGet, server, access); status != http.StatusNoContent {
						t.Errorf("before the sign-out: %d", status)
					}
				}
				if status := ask(http.MethodPost, at.url+"/authn/sign_out", access); status != http.StatusNoContent {
					t.Errorf("sign-out: %d", status)
					return
				}
				acknowledged := time.Now()
				var asking sync.WaitGroup
				for _, server := range servers {
					asking.Go(func() {
						for ask(http.MethodGet, server, access) != http.StatusUnauthorized {
							if t.Failed() || time.Since(acknowledged) > patience {
								t.Errorf("%s still takes it after %v", server, time.Since(acknowledged))
								return
							}
							<-time.After(time.Millisecond)
						}
					})
				}
				asking.Wait()
				mu.Lock()
				took = append(took, time.Since(acknowledged))
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(took) != signOuts {
		t.Fatalf("%d of %d sign-outs", len(took), signOuts)
	}
	slices.Sort(took)
	at := func(percent int) time.Duration { return took[(len(took)-1)*percent/100].Round(10 * time.Microsecond) }
	t.Logf("%d sign-outs, refused by all of 3 verifiers after: p50 %v, p99 %v, max %v", signOuts, at(50), at(99), at(100))
	for i, v := range verifiers {
		if s := v.Stats().Revocations; s.Entries != signOuts || s.Sequence != signOuts || s.Gaps != 0 {
			t.Errorf("verifier %d: %+v", i, s)
		}
	}
}
