package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/urbandata/urbandata/keys"
)

// probeJWKS returns the probe of a keeper: it fetches the key set from where
// verifiers do, and makes sure that each key that is ready to sign is in it.
// keeper is asked for when the probe runs, as the probe comes first.
func probeJWKS(issuer string, keeper func() *keys.Keeper) func(context.Context) error {
	url := strings.TrimSuffix(issuer, "/") + "/.well-known/jwks.json"
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return fmt.Errorf("fetch %s: %w", url, err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err // it names the URL
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("fetch %s: %s", url, response.Status)
		}
		var set struct {
			Keys []struct {
				KeyID string `json:"kid"`
			} `json:"keys"`
		}
		if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&set); err != nil {
			return fmt.Errorf("fetch %s: not a key set: %w", url, err)
		}
		served := map[string]bool{}
		for _, k := range set.Keys {
			served[k.KeyID] = true
		}
		for _, k := range keeper().Ring().Published() {
			// A cache between may serve a set from before a younger key.
			if k.State == keys.Announced && !time.Now().Before(k.ReadyAt) && !served[k.ID] {
				return fmt.Errorf("fetch %s: it lacks the next key, %s", url, k.ID)
			}
		}
		return nil
	}
}
