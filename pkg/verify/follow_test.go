package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
)

// feed is an issuer's list of revocations without a network, for tests in a
// synctest bubble.
type feed struct {
	issuer *verifytest.Issuer

	mu       sync.Mutex // guards what follows
	seq      int64
	entries  []token.Revocation
	life     int64 // of tokens, in seconds
	streams  map[chan string]struct{}
	resumed  []string // the Last-Event-ID of each stream
	lists    int      // requests for the list
	down     bool     // nothing answers
	noStream bool     // 404 for the stream
	mute     bool     // streams say nothing, heartbeats neither
	answer   func() *http.Response
	first    func() string // in the place of a stream's first statement
}

func newFeed(t testing.TB) *feed {
	return &feed{issuer: verifytest.NewIssuer(t), life: 300, streams: map[chan string]struct{}{}}
}

// sign makes a statement.
func (f *feed) sign(r token.Revocations) string {
	payload, _ := json.Marshal(r)
	return f.issuer.Sign(verify.EdDSA, f.header(), string(payload))
}

func (f *feed) header() string {
	return fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"revocations+jwt"}`, f.issuer.KeyID(verify.EdDSA))
}

// statement is the list, or what follows upon a place.
func (f *feed) statement(after *int64) token.Revocations {
	now := time.Now().Unix()
	r := token.Revocations{
		Issuer: f.issuer.URL, IssuedAt: now, Expiry: now + 60, Sequence: f.seq, After: after, TokenLife: f.life,
		Entries: append([]token.Revocation{}, f.entries...),
	}
	if after != nil {
		r.Entries = r.Entries[*after-(f.seq-int64(len(f.entries))):]
	}
	return r
}

// end publishes entries.
func (f *feed) end(entries ...token.Revocation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	after := f.seq
	for _, e := range entries {
		if e.Expiry == 0 {
			e.Expiry = time.Now().Unix() + f.life
		}
		f.entries = append(f.entries, e)
		f.seq++
	}
	f.tell(f.event(f.statement(&after)))
}

func (f *feed) tell(event string) {
	for s := range f.streams {
		s <- event
	}
}

func (f *feed) event(r token.Revocations) string {
	return fmt.Sprintf("id: %d\ndata: %s\n\n", r.Sequence, f.sign(r))
}

// cut ends all streams.
func (f *feed) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tell("")
}

// asked is how often the list was, and the Last-Event-ID of each stream.
func (f *feed) asked() (lists int, resumed []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lists, slices.Clone(f.resumed)
}

func (f *feed) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *feed) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stream := strings.HasSuffix(r.URL.Path, "/stream")
	if !stream {
		f.lists++
	}
	switch {
	case f.down:
		return nil, errors.New("connection refused")
	case stream && f.noStream:
		return reply(404, "", ""), nil
	case !stream && f.answer != nil:
		return f.answer(), nil
	case !stream:
		doc := f.sign(f.statement(nil))
		etag := fmt.Sprintf(`"%d-%d"`, f.seq, time.Now().Unix()/15)
		if r.Header.Get("If-None-Match") == etag {
			return reply(304, "", ""), nil
		}
		response := reply(200, "application/jwt", doc)
		response.Header.Set("ETag", etag)
		return response, nil
	}
	f.resumed = append(f.resumed, r.Header.Get("Last-Event-ID"))
	first := f.event(f.statement(nil))
	if held, err := strconv.ParseInt(r.Header.Get("Last-Event-ID"), 10, 64); err == nil && held <= f.seq && held >= f.seq-int64(len(f.entries)) {
		first = f.event(f.statement(&held))
	}
	if f.first != nil {
		first = f.first()
	}
	news := make(chan string, 1000)
	f.streams[news] = struct{}{}
	body, out := io.Pipe()
	ctx := r.Context()
	stop := context.AfterFunc(ctx, func() { _ = out.CloseWithError(ctx.Err()) })
	go func() {
		defer func() { _ = out.Close() }()
		defer stop()
		defer func() { f.set(func() { delete(f.streams, news) }) }()
		beat := time.NewTicker(3 * time.Second)
		defer beat.Stop()
		event := first
		for {
			if _, err := io.WriteString(out, event); err != nil {
				return
			}
			select {
			case event = <-news:
				if event == "" {
					return
				}
			case <-beat.C:
				f.mu.Lock()
				event = ": nothing\n\n"
				if !f.mute {
					event = f.event(f.statement(&f.seq))
				}
				f.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body, Request: r}, nil
}

func reply(status int, contentType, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body))}
}

// following runs test in a synctest bubble with a running verifier that follows
// a feed.
func following(t *testing.T, change func(*verify.Options, *feed), test func(t *testing.T, v *verify.Verifier, f *feed)) {
	t.Helper()
	f := newFeed(t)
	synctest.Test(t, func(t *testing.T) {
		o := fixedOptions(t, f.issuer)
		o.Revocations.URL = "https://id.example/.well-known/revocations"
		o.HTTPClient = &http.Client{Transport: f, Timeout: 4 * time.Second} // which a stream must outlive
		o.TokenCacheBytes = verify.DefaultTokenCacheBytes
		if change != nil {
			change(&o, f)
		}
		v, err := verify.New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		synctest.Wait()
		test(t, v, f)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		time.Sleep(10 * time.Second) // for an endpoint to notice
	})
}

// of mints a token that the bubble's clock finds good.
func (f *feed) of(change func(*token.Claims)) string {
	c := f.issuer.Claims("user")
	now := time.Now().Unix()
	c.IssuedAt, c.Expiry, c.Session = now, now+300, "session"
	if change != nil {
		change(&c)
	}
	return f.issuer.Mint(verify.EdDSA, c)
}

func TestFollowsTheStream(t *testing.T) {
	following(t, nil, func(t *testing.T, v *verify.Verifier, f *feed) {
		time.Sleep(20 * time.Second) // longer than a client's timeout, and than silence may last
		lists, _ := f.asked()
		if s := v.Stats().Revocations; !s.Followed || !s.Streaming || !s.Usable || s.Words < 7 || s.Failures != 0 || lists != 0 {
			t.Fatalf("%+v and %d lists", s, lists)
		}
		for _, tc := range []struct {
			name   string
			entry  token.Revocation
			ends   func(*token.Claims)
			spares func(*token.Claims)
		}{
			{"session", token.Revocation{Session: "s1"}, func(c *token.Claims) { c.Session = "s1" }, func(c *token.Claims) { c.Subject = "s1" }},
			{"user", token.Revocation{Subject: "u1"}, func(c *token.Claims) { c.Subject = "u1" }, func(c *token.Claims) { c.ClientID = "u1" }},
			{"client", token.Revocation{ClientID: "c1"}, func(c *token.Claims) { c.ClientID = "c1" }, func(c *token.Claims) { c.Session = "c1" }},
			{"token", token.Revocation{ID: "j1"}, func(c *token.Claims) { c.ID = "j1" }, func(c *token.Claims) { c.Session = "j1" }},
			{
				"user enabled again",
				token.Revocation{Subject: "u2", Before: time.Now().Unix()},
				func(c *token.Claims) { c.Subject, c.IssuedAt = "u2", time.Now().Unix()-1 },
				func(c *token.Claims) { c.Subject = "u2" },
			},
			{
				"without iat",
				token.Revocation{Subject: "u3", Before: time.Now().Unix()},
				func(c *token.Claims) { c.Subject, c.IssuedAt = "u3", 0 }, nil,
			},
		} {
			ended, spared := f.of(tc.ends), f.of(tc.spares)
			want(t, tc.name+" before", verifyOne(t, v, ended), nil)
			want(t, "another before "+tc.name, verifyOne(t, v, spared), nil)
			f.end(tc.entry)
			synctest.Wait()
			want(t, tc.name, verifyOne(t, v, ended), verify.ErrRevoked) // it is in the token cache
			want(t, tc.name+" anew", verifyOne(t, v, f.of(tc.ends)), verify.ErrRevoked)
			want(t, "another than "+tc.name, verifyOne(t, v, spared), nil)
		}

		// An entry takes the place of an earlier one about the same.
		old := f.of(func(c *token.Claims) { c.Subject = "u1" })
		time.Sleep(2 * time.Second)
		f.end(token.Revocation{Subject: "u1", Before: time.Now().Unix()})
		synctest.Wait()
		want(t, "enabled again, an old token", verifyOne(t, v, old), verify.ErrRevoked)
		want(t, "enabled again, a new token", verifyOne(t, v, f.of(func(c *token.Claims) { c.Subject = "u1" })), nil)

		if n := v.Stats().Revocations.Entries; n != 6 {
			t.Errorf("%d entries", n)
		}
		time.Sleep(time.Duration(f.life)*time.Second + verify.DefaultLeeway + 2*time.Minute)
		if n := v.Stats().Revocations.Entries; n != 0 {
			t.Errorf("%d entries are left after their time", n)
		}
	})
}

func TestResumesWhereItWas(t *testing.T) {
	following(t, nil, func(t *testing.T, v *verify.Verifier, f *feed) {
		good := f.of(nil)
		f.end(token.Revocation{Session: "a"}, token.Revocation{Session: "b"})
		synctest.Wait()
		f.cut() // the issuer is restarted
		f.set(func() { f.down = true })
		time.Sleep(3 * time.Second)
		f.end(token.Revocation{Session: "session"})
		want(t, "ended unheard", verifyOne(t, v, good), nil)
		f.set(func() { f.down = false })
		time.Sleep(5 * time.Second)
		want(t, "heard", verifyOne(t, v, good), verify.ErrRevoked)
		if _, at := f.asked(); len(at) != 2 || at[0] != "" || at[1] != "2" && at[1] != "3" {
			t.Errorf("resumed at %q", at)
		}
		if s := v.Stats().Revocations; s.Gaps != 0 || !s.Streaming || s.Sequence != 3 {
			t.Errorf("%+v", s)
		}
	})
}

func TestGapMeansAFreshList(t *testing.T) {
	following(t, nil, func(t *testing.T, v *verify.Verifier, f *feed) {
		lost := f.of(func(c *token.Claims) { c.Session = "lost" })
		f.set(func() { // an entry that no event tells of
			f.entries, f.seq = append(f.entries, token.Revocation{Session: "lost", Expiry: time.Now().Unix() + 300}), f.seq+1
		})
		want(t, "before the gap shows", verifyOne(t, v, lost), nil)
		f.end(token.Revocation{Session: "next"})
		time.Sleep(time.Second)
		want(t, "after the gap", verifyOne(t, v, lost), verify.ErrRevoked)
		want(t, "what showed it", verifyOne(t, v, f.of(func(c *token.Claims) { c.Session = "next" })), verify.ErrRevoked)
		lists, _ := f.asked()
		if s := v.Stats().Revocations; s.Gaps != 1 || lists != 1 || !s.Streaming || s.Sequence != 2 {
			t.Errorf("%+v and %d lists", s, lists)
		}
	})
}

// Without the issuer's word, tokens are verified for as long as the policy
// says, and not longer.
func TestOutage(t *testing.T) {
	for _, tc := range []struct {
		name     string
		silence  time.Duration
		life     int64 // as the issuer says; 0: it was never heard
		bears    time.Duration
		forEver  bool
		optional bool
	}{
		{name: "one token life", life: 900, bears: 15 * time.Minute},
		{name: "an unheard issuer", bears: verify.DefaultMaxSilence},
		{name: "an unheard issuer that may have none", bears: verify.DefaultMaxSilence, optional: true},
		{name: "a minute", silence: time.Minute, life: 900, bears: time.Minute},
		{name: "tokens of a second", life: 1, bears: 30 * time.Second},
		{name: "for ever", silence: -1, life: 300, forEver: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			following(t, func(o *verify.Options, f *feed) {
				o.Revocations.MaxSilence, o.Revocations.Optional = tc.silence, tc.optional
				if f.life = tc.life; tc.life == 0 {
					f.down = true
				}
			}, func(t *testing.T, v *verify.Verifier, f *feed) {
				token := func() string { return f.of(nil) }
				f.set(func() { f.down = true })
				f.cut()
				synctest.Wait()
				if tc.forEver {
					time.Sleep(24 * time.Hour)
					want(t, "after a day", verifyOne(t, v, token()), nil)
					want(t, "readiness", v.Check(), nil)
					return
				}
				time.Sleep(tc.bears - time.Second)
				want(t, "just before", verifyOne(t, v, token()), nil)
				want(t, "readiness just before", v.Check(), nil)
				time.Sleep(time.Second)
				held := token()
				want(t, "just after", verifyOne(t, v, held), verify.ErrRevocationsUnavailable)
				want(t, "readiness just after", v.Check(), verify.ErrRevocationsUnavailable)
				if s := v.Stats().Revocations; s.Usable || s.Failures == 0 {
					t.Errorf("%+v", s)
				}
				f.set(func() { f.down, f.life = false, 300 })
				time.Sleep(11 * time.Second)
				want(t, "when it is back", verifyOne(t, v, held), nil)
				want(t, "readiness when it is back", v.Check(), nil)
				if s := v.Stats().Revocations; !s.Streaming {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A stream that is open and says nothing is no word.
func TestSilenceIsNoticed(t *testing.T) {
	following(t, nil, func(t *testing.T, v *verify.Verifier, f *feed) {
		good := f.of(nil)
		f.set(func() {
			f.mute = true // with comments that keep proxies content
			f.entries, f.seq = append(f.entries, token.Revocation{Session: "session", Expiry: time.Now().Unix() + 300}), f.seq+1
		})
		time.Sleep(9 * time.Second)
		want(t, "after 9 s", verifyOne(t, v, good), nil)
		time.Sleep(2 * time.Second)
		want(t, "after 11 s", verifyOne(t, v, good), verify.ErrRevoked)
		if _, streams := f.asked(); len(streams) != 2 {
			t.Errorf("%d streams", len(streams))
		}
	})
}

func TestPollsWithoutAStream(t *testing.T) {
	following(t, func(_ *verify.Options, f *feed) { f.noStream = true }, func(t *testing.T, v *verify.Verifier, f *feed) {
		time.Sleep(2 * time.Minute)
		if lists, _ := f.asked(); lists < 100 || lists > 200 {
			t.Errorf("%d lists in two minutes", lists)
		}
		for i := range 20 {
			session := fmt.Sprint(i)
			good := f.of(func(c *token.Claims) { c.Session = session })
			want(t, "before", verifyOne(t, v, good), nil)
			f.end(token.Revocation{Session: session})
			time.Sleep(1100 * time.Millisecond)
			want(t, "after", verifyOne(t, v, good), verify.ErrRevoked)
		}
		if s := v.Stats().Revocations; s.Streaming || !s.Usable {
			t.Errorf("%+v", s)
		}
		f.set(func() { f.noStream = false })
		time.Sleep(2 * time.Minute)
		if s := v.Stats().Revocations; !s.Streaming {
			t.Errorf("%+v", s)
		}
	})
}

// An issuer that has no list, and need not have one.
func TestIssuerWithoutAList(t *testing.T) {
	for name, answer := range map[string]func() *http.Response{
		"404":            func() *http.Response { return reply(404, "text/plain", "not found") },
		"410":            func() *http.Response { return reply(410, "", "") },
		"401":            func() *http.Response { return reply(401, "application/json", "{}") },
		"403":            func() *http.Response { return reply(403, "application/xml", "<Error/>") },
		"405":            func() *http.Response { return reply(405, "", "") },
		"a page":         func() *http.Response { return reply(200, "text/html", "<!doctype html>") },
		"503, of course": func() *http.Response { return reply(503, "text/html", "") },
	} {
		t.Run(name, func(t *testing.T) {
			following(t, func(o *verify.Options, f *feed) {
				o.Revocations.Optional, f.answer, f.noStream = true, answer, true
			}, func(t *testing.T, v *verify.Verifier, f *feed) {
				time.Sleep(time.Hour)
				if name == "503, of course" {
					want(t, "an outage", verifyOne(t, v, f.of(nil)), verify.ErrRevocationsUnavailable)
					return
				}
				want(t, "after an hour", verifyOne(t, v, f.of(nil)), nil)
				want(t, "readiness", v.Check(), nil)
				lists, _ := f.asked()
				if s := v.Stats().Revocations; !s.Absent || !s.Usable || s.Failures != 0 || lists > 100 {
					t.Errorf("%+v after %d requests", s, lists)
				}
				f.set(func() { f.answer, f.noStream = nil, false })
				f.end(token.Revocation{Session: "session"})
				time.Sleep(time.Minute + time.Second)
				want(t, "once it has one", verifyOne(t, v, f.of(nil)), verify.ErrRevoked)
				f.set(func() { f.answer, f.noStream = answer, true }) // and now it must
				f.cut()
				time.Sleep(time.Hour)
				want(t, "once it has had one", verifyOne(t, v, f.of(nil)), verify.ErrRevocationsUnavailable)
			})
		})
	}
}

// The sequence goes back only when nothing that is held matters any more.
func TestOlderListIsRefused(t *testing.T) {
	following(t, nil, func(t *testing.T, v *verify.Verifier, f *feed) {
		good := f.of(nil)
		f.set(func() { f.seq = 40 })
		f.cut()
		time.Sleep(time.Second)
		f.end(token.Revocation{Session: "session"})
		synctest.Wait()
		f.set(func() { f.seq, f.entries = 7, nil }) // the database came from a backup
		f.cut()
		time.Sleep(time.Minute)
		want(t, "with an older list", verifyOne(t, v, good), verify.ErrRevoked)
		if s := v.Stats().Revocations; s.Sequence != 41 || s.Failures == 0 {
			t.Errorf("%+v", s)
		}
		time.Sleep(6 * time.Minute)
		if s := v.Stats().Revocations; s.Sequence != 7 || !s.Streaming {
			t.Errorf("%+v", s)
		}
		want(t, "in the new count", verifyOne(t, v, f.of(nil)), nil)
	})
}

// statements that are not the issuer's present word.
var badStatements = []struct {
	name string
	make func(f *feed) string
}{
	{"nothing", func(*feed) string { return "" }},
	{"no JWS", func(*feed) string { return "{}" }},
	{"an access token", func(f *feed) string { return f.of(nil) }},
	{"unsigned", func(f *feed) string {
		s := f.sign(f.statement(nil))
		return b64(`{"alg":"none","typ":"revocations+jwt"}`) + s[strings.IndexByte(s, '.'):strings.LastIndexByte(s, '.')+1]
	}},
	{"alg none", func(f *feed) string {
		s := f.sign(f.statement(nil))
		return b64(fmt.Sprintf(`{"alg":"none","kid":%q,"typ":"revocations+jwt"}`, f.issuer.KeyID(verify.EdDSA))) + s[strings.IndexByte(s, '.'):]
	}},
	{"signed for another", func(f *feed) string {
		s := f.sign(f.statement(nil))
		i, j := strings.IndexByte(s, '.'), strings.LastIndexByte(s, '.')
		return s[:i+1] + b64(fmt.Sprintf(`{"iss":%q,"iat":1,"exp":9999999999,"seq":9,"revocations":[]}`, f.issuer.URL)) + s[j:]
	}},
	{"an unknown key", func(f *feed) string {
		payload, _ := json.Marshal(f.statement(nil))
		return f.issuer.Sign(verify.EdDSA, `{"alg":"EdDSA","kid":"another","typ":"revocations+jwt"}`, string(payload))
	}},
	{"typ of an access token", func(f *feed) string {
		payload, _ := json.Marshal(f.statement(nil))
		return f.issuer.Sign(verify.EdDSA, strings.ReplaceAll(f.header(), "revocations+jwt", "at+jwt"), string(payload))
	}},
	{"no typ", func(f *feed) string {
		payload, _ := json.Marshal(f.statement(nil))
		return f.issuer.Sign(verify.EdDSA, strings.ReplaceAll(f.header(), `,"typ":"revocations+jwt"`, ""), string(payload))
	}},
	{"a critical extension", func(f *feed) string {
		payload, _ := json.Marshal(f.statement(nil))
		return f.issuer.Sign(verify.EdDSA, strings.ReplaceAll(f.header(), `{`, `{"crit":["x"],"x":1,`), string(payload))
	}},
	{"another issuer", altered(func(r *token.Revocations) { r.Issuer += "/" })},
	{"expired", altered(func(r *token.Revocations) { r.Expiry = time.Now().Unix() - 31 })},
	{"not yet", altered(func(r *token.Revocations) { r.IssuedAt = time.Now().Unix() + 32 })},
	{"an empty value", altered(func(r *token.Revocations) {
		r.Entries = append(r.Entries, token.Revocation{Session: strings.Repeat("s", 257), Expiry: 1})
	})},
	{"too many", altered(func(r *token.Revocations) {
		for i := range 101 {
			r.Entries = append(r.Entries, token.Revocation{Session: fmt.Sprint(i), Expiry: time.Now().Unix() + 300})
		}
	})},
	{"no iss", payload(`{"iat":1,"exp":9999999999,"seq":9,"revocations":[]}`)},
	{"no iat", payload(`{"iss":"%s","exp":9999999999,"seq":9,"revocations":[]}`)},
	{"no exp", payload(`{"iss":"%s","iat":1,"seq":9,"revocations":[]}`)},
	{"no seq", payload(`{"iss":"%s","iat":1,"exp":9999999999,"revocations":[]}`)},
	{"no revocations", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9}`)},
	{"null", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9,"revocations":null}`)},
	{"seq twice", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9,"seq":9,"revocations":[]}`)},
	{"seq below zero", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":-1,"revocations":[]}`)},
	{"seq with a fraction", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9.5,"revocations":[]}`)},
	{"seq beyond all", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":1e300,"revocations":[]}`)},
	{"seq as text", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":"9","revocations":[]}`)},
	{"after beyond seq", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9,"after":10,"revocations":[]}`)},
	{"an entry without exp", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9,"revocations":[{"sid":"session"}]}`)},
	{"an entry for two", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9,"revocations":[{"sid":"a","jti":"b","exp":9999999999}]}`)},
	{"an entry with sid twice", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9,"revocations":[{"sid":"a","sid":"b","exp":9999999999}]}`)},
	{"an entry for nobody", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9,"revocations":[{"sid":"","exp":9999999999}]}`)},
	{"an entry that is none", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9,"revocations":["session"]}`)},
	{"more after it", payload(`{"iss":"%s","iat":1,"exp":9999999999,"seq":9,"revocations":[]} {}`)},
}

func altered(change func(*token.Revocations)) func(*feed) string {
	return func(f *feed) string {
		r := f.statement(nil)
		change(&r)
		return f.sign(r)
	}
}

func payload(text string) func(*feed) string {
	return func(f *feed) string {
		return f.issuer.Sign(verify.EdDSA, f.header(), strings.ReplaceAll(text, "%s", f.issuer.URL))
	}
}

// failureList is what a hook is told of failures.
type failureList struct {
	mu   sync.Mutex
	errs []error
}

func (l *failureList) note(n verify.Following) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.Err != nil {
		l.errs = append(l.errs, n.Err)
	}
}

// taken returns the list, and begins it anew.
func (l *failureList) taken() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := l.errs
	l.errs = nil
	return errs
}

// Whoever stands between can't end a session, nor hide that one has ended.
func TestBadStatements(t *testing.T) {
	for _, tc := range badStatements {
		t.Run(tc.name, func(t *testing.T) {
			var failures failureList
			following(t, func(o *verify.Options, f *feed) {
				o.Revocations.MaxEntries, o.Revocations.MaxSilence = 100, time.Minute
				o.Hooks.Followed = failures.note
			}, func(t *testing.T, v *verify.Verifier, f *feed) {
				f.end(token.Revocation{Session: "ended"})
				synctest.Wait()
				ended := f.of(func(c *token.Claims) { c.Session = "ended" })
				before := v.Stats().Revocations
				failures.taken()
				f.set(func() {
					f.answer = func() *http.Response { return reply(200, "application/jwt", tc.make(f)) }
					f.first = func() string { return "data: " + tc.make(f) + "\n\n" }
				})
				f.cut()
				time.Sleep(30 * time.Second)
				want(t, "what has ended", verifyOne(t, v, ended), verify.ErrRevoked)
				want(t, "what has not", verifyOne(t, v, f.of(nil)), nil)
				after := v.Stats().Revocations
				if after.Words != before.Words || after.Entries != before.Entries || after.Sequence != before.Sequence || after.Failures == before.Failures {
					t.Errorf("from %+v to %+v", before, after)
				}
				for _, err := range failures.taken()[1:] { // the first is the end of the stream
					want(t, "failure", err, verify.ErrRevocations)
				}
				time.Sleep(31 * time.Second)
				want(t, "after the minute", verifyOne(t, v, f.of(nil)), verify.ErrRevocationsUnavailable)
			})
		})
	}
}

// An issuer, or whoever is in its place, that sends without an end, or slowly.
func TestEndlessAnswers(t *testing.T) {
	endless := func(text string, every time.Duration) *http.Response {
		body, out := io.Pipe()
		go func() {
			for {
				if _, err := io.WriteString(out, text); err != nil {
					return
				}
				time.Sleep(every)
			}
		}()
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/jwt"}}, Body: body}
	}
	for name, answer := range map[string]func() *http.Response{
		"a long list":            func() *http.Response { return endless(strings.Repeat("a", 1<<20), 0) },
		"a stream without lines": func() *http.Response { return endless("data: "+strings.Repeat("a", 1<<20), 0) },
		"a stream without end":   func() *http.Response { return endless("data: "+strings.Repeat("a", 1000)+"\n", 0) },
		"comments":               func() *http.Response { return endless(": "+strings.Repeat("a", 1000)+"\n", 0) },
	} {
		t.Run(name, func(t *testing.T) {
			var failures failureList
			following(t, func(o *verify.Options, f *feed) {
				o.Revocations.MaxEntries = 100
				o.Hooks.Followed = failures.note
				o.HTTPClient.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
					response := answer()
					if strings.HasSuffix(r.URL.Path, "/stream") {
						response.Header.Set("Content-Type", "text/event-stream")
					}
					return response, nil
				})
			}, func(t *testing.T, v *verify.Verifier, f *feed) {
				time.Sleep(time.Minute)
				errs := failures.taken()
				if len(errs) < 4 || len(errs) > 40 {
					t.Errorf("%d attempts", len(errs))
				}
				for _, err := range errs {
					want(t, "attempt", err, verify.ErrRevocations)
				}
			})
		})
	}
}

// One that trickles is given up after the time that an issuer may be quiet.
func TestTricklingStream(t *testing.T) {
	following(t, func(o *verify.Options, f *feed) {
		o.HTTPClient.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			body, out := io.Pipe()
			context.AfterFunc(r.Context(), func() { _ = out.CloseWithError(r.Context().Err()) })
			go func() {
				for {
					if _, err := io.WriteString(out, "d"); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body}, nil
		})
	}, func(t *testing.T, v *verify.Verifier, f *feed) {
		time.Sleep(16 * time.Second) // 10 for the stream, 5 for the list
		if s := v.Stats().Revocations; s.Failures != 2 {
			t.Errorf("%+v", s)
		}
		time.Sleep(verify.DefaultMaxSilence)
		want(t, "readiness", v.Check(), verify.ErrRevocationsUnavailable)
	})
}

// A list of the issuer is no access token.
func TestListIsNoToken(t *testing.T) {
	following(t, nil, func(t *testing.T, v *verify.Verifier, f *feed) {
		want(t, "the list", verifyOne(t, v, f.sign(f.statement(nil))), verify.ErrType)
	})
}

// Wait also waits for the first attempt.
func TestWaitForRevocations(t *testing.T) {
	f := newFeed(t)
	o := fixedOptions(t, f.issuer)
	o.Revocations.URL = "https://id.example/.well-known/revocations"
	v, err := verify.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	want(t, "before Run", v.Wait(ctx), context.Canceled)
	following(t, nil, func(t *testing.T, v *verify.Verifier, _ *feed) {
		want(t, "with a list", v.Wait(t.Context()), nil)
	})
	following(t, func(_ *verify.Options, f *feed) { f.down = true }, func(t *testing.T, v *verify.Verifier, _ *feed) {
		want(t, "without an issuer", v.Wait(t.Context()), nil)
		want(t, "readiness", v.Check(), nil)
	})
}

// Issuers of one verifier are followed each by itself.
func TestFollowsSeveralIssuers(t *testing.T) {
	one, other := newFeed(t), newFeed(t)
	synctest.Test(t, func(t *testing.T) {
		var all []verify.Options
		for _, f := range []*feed{one, other} {
			o := fixedOptions(t, f.issuer)
			o.Revocations = verify.RevocationOptions{URL: "https://id.example/r", MaxSilence: time.Minute}
			o.HTTPClient = &http.Client{Transport: f}
			all = append(all, o)
		}
		v, err := verify.NewMulti(all...)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go func() { _ = v.Run(ctx) }()
		synctest.Wait()
		one.end(token.Revocation{Session: "session"})
		synctest.Wait()
		want(t, "its token", verifyOne(t, v, one.of(nil)), verify.ErrRevoked)
		want(t, "the other's token", verifyOne(t, v, other.of(nil)), nil)
		other.set(func() { other.down = true })
		other.cut()
		time.Sleep(2 * time.Minute)
		want(t, "one's other token", verifyOne(t, v, one.of(func(c *token.Claims) { c.Session = "x" })), nil)
		want(t, "the token of who is away", verifyOne(t, v, other.of(nil)), verify.ErrRevocationsUnavailable)
		want(t, "readiness", v.Check(), nil)
		if s := v.Stats().Revocations; s.Usable || s.Entries != 1 || s.Streaming {
			t.Errorf("%+v", s)
		}
		if s, _ := v.StatsOf(one.issuer.URL); !s.Revocations.Usable || !s.Revocations.Streaming {
			t.Errorf("%+v", s.Revocations)
		}
	})
}

// The log has each turn once, however long it lasts.
func TestLogOfRevocations(t *testing.T) {
	var mu sync.Mutex
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(locked{&mu, &out}, nil))
	following(t, func(o *verify.Options, f *feed) { o.Logger = log }, func(t *testing.T, v *verify.Verifier, f *feed) {
		f.cut() // which matters to nobody
		time.Sleep(10 * time.Second)
		f.set(func() { f.down = true })
		f.cut()
		time.Sleep(20 * time.Minute)
		f.set(func() { f.down = false })
		time.Sleep(time.Minute)
	})
	mu.Lock()
	defer mu.Unlock()
	var levels []string
	for line := range strings.Lines(out.String()) {
		_, level, _ := strings.Cut(line, "level=")
		level, _, _ = strings.Cut(level, " ")
		levels = append(levels, level)
	}
	if strings.Join(levels, " ") != "WARN ERROR INFO" {
		t.Errorf("the log has %v:\n%s", levels, out.String())
	}
}

type locked struct {
	mu  *sync.Mutex
	out io.Writer
}

func (l locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(b)
}
