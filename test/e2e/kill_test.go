package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestKilledWhileWriting kills urbandata on SQLite again and again while it
// writes, as a power cut of the process would. Whatever was acknowledged is
// there afterwards, whole, and of many in one request all or none.
func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	const rounds, writers, enough, together = 3, 4, 150, 25
	in := embedded(t)
	acknowledged := map[string]string{} // Location → body
	groups := map[string]bool{}         // other_id of many in one request → acknowledged
	for round := range rounds {
		s := in.start(nil)
		p := in.client.newPerson()
		in.client.register(s.auth[0], p)
		token := in.client.login(s.auth[0], p).Access
		// Its own client: of what is answered at the last moment no log line
		// may be left, which the ledger would miss.
		var mu sync.Mutex // guards acknowledged, groups and n
		n := 0
		var wg sync.WaitGroup
		reached := make(chan struct{})
		for range writers {
			wg.Go(func() {
				for {
					location, body, err := postUntilKilled(t, s.api[0], token, newInmueble())
					if err != nil {
						return // it is dead
					}
					mu.Lock()
					acknowledged[location] = body
					if n++; n == enough {
						close(reached)
					}
					mu.Unlock()
				}
			})
		}
		wg.Go(func() {
			for i := 0; ; i++ {
				one := newInmueble()
				group := fmt.Sprintf("R%dG%d", round, i)
				one["other_id"] = group
				_, _, err := postUntilKilled(t, s.api[0], token, slices.Repeat([]object{one}, together))
				mu.Lock()
				groups[group] = err == nil
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
		select {
		case <-reached:
		case <-time.After(patience):
			t.Fatal("it doesn't write")
		}
		s.processes[0].kill()
		wg.Wait()
		begun := time.Now()
		s = in.start(nil)
		recovered := time.Since(begun)
		token = in.client.login(s.auth[0], p).Access
		for location, body := range acknowledged {
			a := in.client.want(http.StatusOK, http.MethodGet, s.api[0]+location, nil, bearer(token))
			if string(a.body) != body {
				t.Errorf("%s was acknowledged as %s and is %s", location, body, a.body)
			}
		}
		for group, all := range groups {
			a := in.client.want(http.StatusOK, http.MethodGet, s.api[0]+"/inmuebles?select=_id&other_id="+group, nil, bearer(token))
			var found []object
			if err := json.Unmarshal(a.body, &found); err != nil {
				t.Fatal(err)
			}
			if len(found) != together && (all || len(found) > 0) {
				t.Errorf("of %d in one request, acknowledged %t, there are %d", together, all, len(found))
			}
		}
		t.Logf("round %d: killed after %d acknowledged writes, ready again in %v; all %d so far are there, and %d requests of %d whole or not at all",
			round+1, n, recovered.Round(time.Millisecond), len(acknowledged), len(groups), together)
		s.stop()
	}
}

// postUntilKilled creates an inmueble, or many. An error is that of a connection.
func postUntilKilled(t *testing.T, base, token string, m any) (location, body string, err error) {
	text, err := json.Marshal(m)
	if err != nil {
		return "", "", err
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/inmuebles", bytes.NewReader(text))
	if err != nil {
		return "", "", err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusCreated {
		err = fmt.Errorf("status %d: %s", response.StatusCode, raw)
		t.Error(err)
	}
	return response.Header.Get("Location"), string(raw), err
}
