package cli

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

// The probe sees what a verifier would see.
func TestProbeJWKS(t *testing.T) {
	db, err := database.OpenSQL(t.Context(), "sqlite::memory:", database.Normal)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnSQLite); err != nil {
		t.Fatal(err)
	}
	sealer, err := keys.NewSealer(keys.GenerateSealingKey())
	if err != nil {
		t.Fatal(err)
	}
	policy := keys.DefaultPolicy()
	policy.Algorithms = policy.Algorithms[:1]
	// The stand-by was made long ago, so it is ready.
	made := time.Now().Add(-2 * policy.AnnounceLead)
	keeper, err := keys.NewKeeper(keys.NewSQLStore(db.Write), sealer, policy, keys.Options{
		Now: func() time.Time { return made }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	early, err := keeper.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	present, err := keeper.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		h    http.HandlerFunc
		says string
	}{
		{"served", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(present.Body) }, ""},
		{"a set from before the next key", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(early.Body) }, "lacks the next key"},
		{"an error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, "503"},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "not a key set"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var path string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				path = r.URL.Path
				tc.h(w, r)
			}))
			defer server.Close()
			err := probeJWKS(server.URL+"/id", func() *keys.Keeper { return keeper })(t.Context())
			if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want %q", err, tc.says)
			}
			if path != "/id/.well-known/jwks.json" {
				t.Errorf("it fetched %s", path)
			}
		})
	}
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	if err := probeJWKS(server.URL, func() *keys.Keeper { return keeper })(t.Context()); err == nil {
		t.Error("nobody listens, and it says nothing")
	}
}
