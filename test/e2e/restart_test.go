package e2e

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRestart: what was handed out and stored before a restart is good after
// it.
func TestRestart(t *testing.T) {
	everyWay(t, func(t *testing.T, in *installation) {
		c := in.client
		s := in.start(nil)
		auth, _ := s.auths()
		api, _ := s.apis()
		p := c.newPerson()
		c.register(auth, p)
		tokens, used := c.login(auth, p), c.login(auth, p)
		c.refresh(auth, used.Refresh)
		doc := c.create(api, tokens.Access, newInmueble())
		path := "/inmuebles/" + str(doc["_id"])
		before := c.want(http.StatusOK, http.MethodGet, api+path, nil, bearer(tokens.Access))
		published := into[keySet](c.want(http.StatusOK, http.MethodGet, auth+"/.well-known/jwks.json", nil))
		signing := signingKeys(t, in)
		s.stop()

		s = in.start(nil)
		for _, base := range s.auth {
			again := into[keySet](c.want(http.StatusOK, http.MethodGet, base+"/.well-known/jwks.json", nil))
			for _, k := range published.Keys { // there may be more by now
				if !slices.ContainsFunc(again.Keys, func(o object) bool { return maps.Equal(o, k) }) {
					t.Errorf("the key %v is gone; there are %v", k, again.Keys)
				}
			}
			c.want(http.StatusOK, http.MethodGet, base+"/authn/me", nil, bearer(tokens.Access))
		}
		for _, base := range s.api {
			after := c.want(http.StatusOK, http.MethodGet, base+path, nil, bearer(tokens.Access))
			if !bytes.Equal(after.body, before.body) {
				t.Errorf("the inmueble was %s and is %s", before.body, after.body)
			}
		}
		if now := signingKeys(t, in); !maps.Equal(now, signing) {
			t.Errorf("the signing keys were %v and are %v", signing, now)
		}
		auth, other := s.auths()
		api, _ = s.apis()
		next := c.refresh(auth, tokens.Refresh)
		next = c.refresh(other, next.Refresh)
		c.want(http.StatusNoContent, http.MethodDelete, api+path, nil, bearer(next.Access))
		c.login(auth, p)
		s.stop()
	})
}

// TestDrain: on SIGTERM a service says first that it takes nothing new, ends
// what it has begun, and then itself.
func TestDrain(t *testing.T) {
	everyWay(t, func(t *testing.T, in *installation) {
		c := in.client
		// The delay is long enough to be seen, on a slow machine too.
		s := in.start(settings{"URBANDATA_DRAIN_DELAY": "3s"})
		auth, _ := s.auths()
		api, _ := s.apis()
		p := c.newPerson()
		c.register(auth, p)
		token := c.login(auth, p).Access
		login := beginRequest(t, auth, "/authn/token", "", object{"email": p.email, "password": p.password})
		create := beginRequest(t, api, "/inmuebles", token, newInmueble())
		unfinished := map[string]func(){
			auth: func() { c.pairOf(login.finish(http.StatusOK)) },
			api:  func() { create.finish(http.StatusCreated) },
		}
		for i, p := range s.processes {
			// One process of each kind: `up` is both services, replicas are
			// authn, authn, inmuebles, inmuebles.
			if i%2 == 0 {
				p.terminate()
			}
		}
		for base := range unfinished {
			eventually(t, "/readyz says 503 during the drain", func() bool {
				a, err := c.try(http.MethodGet, base+"/readyz", nil)
				if err != nil {
					t.Fatalf("the listener closed before /readyz said 503: %v", err)
				}
				return a.status == http.StatusServiceUnavailable
			})
			c.want(http.StatusOK, http.MethodGet, base+"/livez", nil) // who has not noticed yet is served
		}
		c.http.CloseIdleConnections()
		for base := range unfinished {
			eventually(t, "no more connections are taken", func() bool {
				conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
				if err == nil {
					_ = conn.Close()
				}
				return err != nil
			})
		}
		for _, finish := range unfinished {
			finish()
		}
		for i, p := range s.processes {
			if i%2 == 0 {
				p.ended()
			}
		}
	})
}

// pendingRequest is a POST of which the server has the half.
type pendingRequest struct {
	t    *testing.T
	what string
	conn net.Conn
	rest []byte
}

// beginRequest sends a POST up to the middle of its body, and returns when the
// server waits for the rest.
func beginRequest(t *testing.T, base, path, token string, body object) *pendingRequest {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	text := encode(t, body)
	authorization := ""
	if token != "" {
		authorization = "Authorization: Bearer " + token + "\r\n"
	}
	// The server has begun with it for sure once it asks for the body.
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		path, authorization, len(text)); err != nil {
		t.Fatal(err)
	}
	var hint [len("HTTP/1.1 100 Continue\r\n\r\n")]byte
	if _, err := io.ReadFull(conn, hint[:]); err != nil || !strings.HasPrefix(string(hint[:]), "HTTP/1.1 100") {
		t.Fatalf("POST %s: %q, %v, want 100 Continue", path, hint, err)
	}
	half := len(text) / 2
	if _, err := conn.Write(text[:half]); err != nil {
		t.Fatal(err)
	}
	return &pendingRequest{t, "POST " + path, conn, text[half:]}
}

// finish sends the rest and wants the status.
func (r *pendingRequest) finish(want int) answer {
	r.t.Helper()
	if _, err := r.conn.Write(r.rest); err != nil {
		r.t.Fatalf("%s, begun before SIGTERM: %v", r.what, err)
	}
	a, err := readAnswer(r.conn)
	if err != nil || a.status != want {
		r.t.Fatalf("%s, begun before SIGTERM: %d %v, want %d: %s", r.what, a.status, err, want, a.body)
	}
	a.t, a.what = r.t, r.what
	return a
}

// TestKill: what was acknowledged survives kill -9 of every process in the
// middle of the work: each inmueble, and a session's last refresh token.
func TestKill(t *testing.T) {
	const (
		writers, sessions = 8, 4
		enough            = 150 // inmuebles acknowledged before the kill
	)
	everyWay(t, func(t *testing.T, in *installation) {
		c := in.client
		// A rotation may be stored though its answer was lost. The grace is
		// what forgives that, and must outlast the restart.
		s := in.start(settings{"URBANDATA_AUTH_REFRESH_GRACE": "2m"})
		auth, _ := s.auths()
		p := c.newPerson()
		c.register(auth, p)
		token := c.login(auth, p).Access

		var work sync.WaitGroup
		var stored, refreshed atomic.Int64
		kill := make(chan struct{})
		ids := make([][]string, writers)
		for w := range writers {
			api := s.api[w%len(s.api)]
			work.Go(func() {
				for n := 0; ; n++ {
					m := newInmueble()
					m["other_id"], m["title"] = fmt.Sprintf("%d-%d", w, n), strings.Repeat("ñ", n%500)
					a, err := c.try(http.MethodPost, api+"/inmuebles", m, bearer(token))
					if err != nil || a.status != http.StatusCreated {
						if err == nil {
							t.Errorf("create: %d %s", a.status, a.body)
						}
						return
					}
					ids[w] = append(ids[w], str(into[object](a)["_id"]))
					if stored.Add(1) == enough {
						close(kill)
					}
				}
			})
		}
		last := make([]string, sessions)
		for i := range sessions {
			last[i] = c.login(auth, p).Refresh
			work.Go(func() {
				for n := i; ; n++ {
					a, err := c.try(http.MethodPost, s.auth[n%len(s.auth)]+"/authn/token/refresh", object{"refresh": last[i]})
					if err != nil || a.status != http.StatusOK {
						if err == nil {
							t.Errorf("refresh: %d %s", a.status, a.body)
						}
						return
					}
					last[i] = c.pairOf(a).Refresh
					refreshed.Add(1)
				}
			})
		}
		select {
		case <-kill:
		case <-time.After(patience):
			t.Errorf("only %d inmuebles were stored", stored.Load())
		}
		for _, p := range s.processes {
			_ = p.cmd.Process.Kill() // all at one moment; a failure shows in what follows
		}
		work.Wait()
		for _, p := range s.processes {
			<-p.done
		}

		s = in.start(settings{"URBANDATA_AUTH_REFRESH_GRACE": "2m"})
		auth, other := s.auths()
		_, api := s.apis()
		lost := 0
		for w := range ids {
			for n, id := range ids[w] {
				a, err := c.try(http.MethodGet, api+"/inmuebles/"+id, nil, bearer(token))
				if err != nil || a.status != http.StatusOK || into[object](a)["other_id"] != fmt.Sprintf("%d-%d", w, n) {
					lost++
				}
			}
		}
		if lost > 0 {
			t.Errorf("%d of %d acknowledged inmuebles are lost", lost, stored.Load())
		}
		for i := range last {
			next := c.refresh(auth, last[i])
			c.refresh(other, next.Refresh)
		}
		t.Logf("kill -9: %d inmuebles by %d writers and %d refreshes of %d sessions were acknowledged; lost: %d",
			stored.Load(), writers, refreshed.Load(), sessions, lost)
		s.stop()
	})
}
