//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// operation is something that clients do, and the least that it can cost.
type operation struct {
	name    string
	service *service
	rows    int // that one request moves; 0 where it is none
	clients int // at most; 0 for as many as the run has

	ours, floor call
	// before gets what n requests need that is used up by them.
	before func(ctx context.Context, n int) error
}

// importRows is how many rows an import brings.
const importRows = 2000

// threeConditions is a filter that people would use.
const threeConditions = "?listing_type=eq.1&property_type=in.(1,2)&start_month=gte.3&order=date.desc&limit=50"

// clients are those that all runs have: users who are logged in, and programs
// with tokens.
type clients struct {
	*system

	emails   atomic.Int64
	sessions chan string  // refresh tokens that nobody uses just now
	fresh    chan string  // access tokens that inmuebles hasn't met
	seen     atomic.Value // a string: one that it has met
	rows     [][]byte     // of the made-up file, with blanks for their ids
	imports  atomic.Int64
	turn     atomic.Int64 // whose turn it is of the ids, or of the rows
	ids      []string     // of documents
	fastest  float64      // requests a second, of what was measured so far
}

// password is everybody's here.
const password = "una frase bastante larga" //nolint:gosec // of made-up users in a database that goes away

func newClients(ctx context.Context, s *system, sessions int) (*clients, error) {
	c := &clients{system: s, sessions: make(chan string, sessions), fresh: make(chan string, 1<<20)}
	if err := c.register(ctx, s.authn.url+"/authn/register", "load@ejemplo.example"); err != nil {
		return nil, err
	}
	if err := c.register(ctx, s.floor.url+"/register", "load@ejemplo.example"); err != nil {
		return nil, err
	}
	for range sessions {
		if err := c.logIn(ctx, s.authn.url+"/authn/token", true); err != nil {
			return nil, err
		}
	}
	if err := c.mint(ctx, 1); err != nil {
		return nil, err
	}
	c.seen.Store(<-c.fresh)
	exported, err := s.run(ctx, "export", "-", "--format", "ndjson")
	if err != nil {
		return nil, err
	}
	return c, c.take(exported)
}

// take makes the file that imports bring of exported documents, and keeps the
// ids to ask for.
func (c *clients) take(exported []byte) error {
	for line := range bytes.Lines(exported) {
		var row map[string]any
		if err := json.Unmarshal(line, &row); err != nil {
			return fmt.Errorf("read the exported documents: %w", err)
		}
		id, _ := row["_id"].(string)
		c.ids = append(c.ids, id)
		if len(c.rows) == importRows {
			continue
		}
		for _, not := range []string{"_id", "owner", "created_at", "updated_at"} {
			delete(row, not)
		}
		text, err := json.Marshal(row)
		if err != nil {
			return fmt.Errorf("make a file: %w", err)
		}
		c.rows = append(c.rows, text[1:]) // without the brace
	}
	if len(c.rows) < importRows {
		return fmt.Errorf("only %d documents were exported", len(c.rows))
	}
	return nil
}

// send sends a request and wants a status. A body is JSON, unless its type is
// given.
func (c *clients) send(ctx context.Context, method, url, bearer string, body []byte, contentType string, want int) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if bearer != "" {
		r.Header.Set("Authorization", bearer)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return c.do(r, want)
}

func (c *clients) do(r *http.Request, want int) ([]byte, error) {
	w, err := c.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Body.Close() }()
	answer, err := io.ReadAll(w.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, err)
	}
	if w.StatusCode != want {
		return nil, fmt.Errorf("%s %s: %d %.300s", r.Method, r.URL.Path, w.StatusCode, answer)
	}
	return answer, nil
}

const (
	jsonType   = "application/json"
	formType   = "application/x-www-form-urlencoded"
	ndjsonType = "application/x-ndjson"
)

func (c *clients) register(ctx context.Context, url, email string) error {
	_, err := c.send(ctx, http.MethodPost, url, "", fmt.Appendf(nil, `{"email":%q,"password":%q}`, email, password), jsonType, http.StatusCreated)
	return err
}

// someone is an address that nobody has yet.
func (c *clients) someone() string {
	return fmt.Sprintf("user%d@ejemplo.example", c.emails.Add(1))
}

// logIn logs in, and keeps the session for refreshing if asked to.
func (c *clients) logIn(ctx context.Context, url string, keep bool) error {
	answer, err := c.send(ctx, http.MethodPost, url, "", fmt.Appendf(nil, `{"email":"load@ejemplo.example","password":%q}`, password), jsonType, http.StatusOK)
	if err != nil || !keep {
		return err
	}
	next, err := member(answer, "refresh")
	if err == nil {
		c.sessions <- next
	}
	return err
}

// member is a text of an answer that has no escapes.
func member(answer []byte, name string) (string, error) {
	_, rest, _ := bytes.Cut(answer, []byte(`"`+name+`":"`))
	value, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		return "", fmt.Errorf("no %s in the answer", name)
	}
	return string(value), nil
}

// refresh takes a session to its next token.
func (c *clients) refresh(ctx context.Context, _ int) error { return c.refreshAt(ctx, c.authn.url) }

func (c *clients) refreshAt(ctx context.Context, authn string) error {
	var token string
	select { // one is used by one client at a time
	case token = <-c.sessions:
	case <-ctx.Done():
		return ctx.Err()
	}
	answer, err := c.send(ctx, http.MethodPost, authn+"/authn/token/refresh", "", []byte(`{"refresh":"`+token+`"}`), jsonType, http.StatusOK)
	if err != nil {
		return err
	}
	next, err := member(answer, "refresh")
	if err == nil {
		c.sessions <- next
	}
	return err
}

// credentials gets a token by the client's secret.
func (c *clients) credentials(ctx context.Context, endpoint, id, secret string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader("grant_type=client_credentials"))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", formType)
	r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	answer, err := c.do(r, http.StatusOK)
	if err != nil {
		return "", err
	}
	return member(answer, "access_token")
}

// mint has so many access tokens ready that inmuebles hasn't met.
func (c *clients) mint(ctx context.Context, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for range n - len(c.fresh) {
		group.Go(func() error {
			token, err := c.credentials(ctx, c.authn.url+"/oauth2/token", c.clientID, c.clientSecret)
			if err == nil {
				c.fresh <- "Bearer " + token
			}
			return err
		})
	}
	return group.Wait()
}

// errNoToken is the failure of a run that was expected to need fewer tokens.
var errNoToken = errors.New("no token is left that hasn't been seen")

// withNew is a call with a token that inmuebles hasn't met.
func (c *clients) withNew(f func(ctx context.Context, bearer string, client int) error) call {
	return func(ctx context.Context, client int) error {
		select {
		case bearer := <-c.fresh:
			return f(ctx, bearer, client)
		default:
			return errNoToken
		}
	}
}

func (c *clients) withSeen(f func(ctx context.Context, bearer string, client int) error) call {
	return func(ctx context.Context, client int) error {
		bearer, _ := c.seen.Load().(string)
		return f(ctx, bearer, client)
	}
}

// ask gets something of a base.
func (c *clients) ask(url string) func(context.Context, string, int) error {
	return func(ctx context.Context, bearer string, _ int) error {
		_, err := c.send(ctx, http.MethodGet, url, bearer, nil, "", http.StatusOK)
		return err
	}
}

// openly gets what anybody may have.
func (c *clients) openly(url string) call {
	return func(ctx context.Context, client int) error { return c.ask(url)(ctx, "", client) }
}

// one gets a document, another each time.
func (c *clients) one(base string) func(context.Context, string, int) error {
	return func(ctx context.Context, bearer string, _ int) error {
		_, err := c.send(ctx, http.MethodGet, base+"/inmuebles/"+c.ids[int(c.turn.Add(1))%len(c.ids)], bearer, nil, "", http.StatusOK)
		return err
	}
}

// post stores a document.
func (c *clients) post(base string) func(context.Context, string, int) error {
	return func(ctx context.Context, bearer string, _ int) error {
		row := c.rows[int(c.turn.Add(1))%len(c.rows)]
		_, err := c.send(ctx, http.MethodPost, base+"/inmuebles", bearer, append([]byte("{"), row...), jsonType, http.StatusCreated)
		return err
	}
}

// file is the made-up file with ids that nothing has yet.
func (c *clients) file() []byte {
	n := c.imports.Add(1)
	var b bytes.Buffer
	for i, row := range c.rows {
		fmt.Fprintf(&b, `{"_id":"%012x%012x",`, n, i)
		b.Write(row)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// importFile brings a file, and returns when its job has stored it.
func (c *clients) importFile(ctx context.Context, bearer string, _ int) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.inmuebles.url+"/inmuebles/import", bytes.NewReader(c.file()))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", bearer)
	r.Header.Set("Content-Type", ndjsonType)
	answer, err := c.do(r, http.StatusAccepted)
	if err != nil {
		return err
	}
	id, err := member(answer, "id")
	if err != nil {
		return err
	}
	for { // the events end with the job, or with the token
		r, err = http.NewRequestWithContext(ctx, http.MethodGet, c.inmuebles.url+"/inmuebles/imports/"+id, nil)
		if err != nil {
			return err
		}
		bearer, _ = c.seen.Load().(string)
		r.Header.Set("Authorization", bearer)
		r.Header.Set("Accept", "text/event-stream")
		events, err := c.do(r, http.StatusOK)
		if err != nil {
			return err
		}
		last := events[max(0, bytes.LastIndex(events, []byte("data: "))):]
		if bytes.Contains(last, []byte(`"finished_at":null`)) {
			continue
		}
		if !bytes.Contains(last, fmt.Appendf(nil, `"stored":%d,`, importRows)) {
			return fmt.Errorf("the import ended otherwise: %.500s", last)
		}
		return nil
	}
}

// operations are all that is measured, those last that leave documents behind.
func (c *clients) operations() []*operation {
	auth, api, floor := c.authn.url, c.inmuebles.url, c.floor.url
	return []*operation{
		{
			name: "register", service: c.authn,
			ours:  func(ctx context.Context, _ int) error { return c.register(ctx, auth+"/authn/register", c.someone()) },
			floor: func(ctx context.Context, _ int) error { return c.register(ctx, floor+"/register", c.someone()) },
		},
		{
			name: "login", service: c.authn,
			ours:  func(ctx context.Context, _ int) error { return c.logIn(ctx, auth+"/authn/token", false) },
			floor: func(ctx context.Context, _ int) error { return c.logIn(ctx, floor+"/login", false) },
		},
		{
			name: "refresh", service: c.authn,
			ours: c.refresh,
			floor: func(ctx context.Context, _ int) error {
				_, err := c.send(ctx, http.MethodPost, floor+"/refresh", "", []byte(`{"refresh":""}`), jsonType, http.StatusOK)
				return err
			},
		},
		{
			name: "client_credentials", service: c.authn,
			ours: func(ctx context.Context, _ int) error {
				_, err := c.credentials(ctx, auth+"/oauth2/token", c.clientID, c.clientSecret)
				return err
			},
			floor: func(ctx context.Context, _ int) error {
				_, err := c.credentials(ctx, floor+"/client_credentials", "floor", "floor")
				return err
			},
		},
		{
			name: "JWKS", service: c.authn,
			ours:  c.openly(auth + "/.well-known/jwks.json"),
			floor: c.openly(floor + "/jwks"),
		},
		{
			name: "get", service: c.inmuebles,
			ours: c.withSeen(c.one(api)), floor: c.withSeen(c.one(floor)),
		},
		{
			name: "verify + get", service: c.inmuebles, before: c.mint,
			ours: c.withNew(c.one(api)), floor: c.withSeen(c.one(floor)),
		},
		{
			name: "list", service: c.inmuebles,
			ours: c.withSeen(c.ask(api + "/inmuebles?order=date.desc&limit=50")), floor: c.withSeen(c.ask(floor + "/list")),
		},
		{
			name: "filter", service: c.inmuebles,
			ours: c.withSeen(c.ask(api + "/inmuebles" + threeConditions)), floor: c.withSeen(c.ask(floor + "/filter")),
		},
		{
			name: "export", service: c.inmuebles, rows: documents, clients: 2,
			ours: c.withSeen(func(ctx context.Context, bearer string, _ int) error {
				return c.export(ctx, api+"/inmuebles", bearer)
			}),
			floor: c.withSeen(func(ctx context.Context, bearer string, _ int) error {
				return c.export(ctx, floor+"/export", bearer)
			}),
		},
		{
			name: "post", service: c.inmuebles,
			ours: c.withSeen(c.post(api)), floor: c.withSeen(c.post(floor)),
		},
		{
			name: "import", service: c.inmuebles, rows: importRows, clients: 2, // a user may have three under way
			ours: c.withSeen(c.importFile),
			floor: c.withSeen(func(ctx context.Context, bearer string, _ int) error {
				_, err := c.send(ctx, http.MethodPost, floor+"/import", bearer, c.file(), ndjsonType, http.StatusOK)
				return err
			}),
		},
	}
}

// export reads all documents, and counts them.
func (c *clients) export(ctx context.Context, url, bearer string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", bearer)
	r.Header.Set("Accept", ndjsonType)
	body, err := c.do(r, http.StatusOK)
	if n := bytes.Count(body, []byte("\n")); err == nil && n < documents {
		err = fmt.Errorf("%d documents were exported, and there are %d", n, documents)
	}
	return err
}
