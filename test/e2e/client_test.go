package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// client calls the services, and notes in the ledger what went over the wire.
type client struct {
	t      *testing.T
	ledger *ledger
	http   *http.Client
}

var errRedirected = errors.New("redirected: a client may lose its body that way")

func newClient(t *testing.T, l *ledger) *client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t, l, &http.Client{
		Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirected },
	}}
}

// answer is a response, read to its end.
type answer struct {
	t      *testing.T
	what   string // the request, for messages
	status int
	header http.Header
	body   []byte
}

// option changes a request.
type option func(*http.Request)

func header(name, value string) option {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func bearer(token string) option { return header("Authorization", "Bearer "+token) }
func legacy(token string) option { return header("access-token", token) }

// try sends a request. A body that is no string is sent as JSON, as is all
// text. The error is that of a request that got no answer.
func (c *client) try(method, url string, body any, options ...option) (answer, error) {
	var content []byte
	switch b := body.(type) {
	case nil:
	case string:
		content = []byte(b)
	default:
		var err error
		if content, err = json.Marshal(b); err != nil {
			c.t.Errorf("encode a request: %v", err)
			return answer{}, err
		}
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, url, bytes.NewReader(content))
	if err != nil {
		c.t.Errorf("make a request: %v", err)
		return answer{}, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, o := range options {
		o(r)
	}
	response, err := c.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{c.t, method + " " + url, response.StatusCode, response.Header, text}
	if id := a.header.Get("X-Request-Id"); id != "" {
		c.ledger.answered(id, a.status)
	} else {
		c.t.Errorf("%s: no X-Request-Id", a.what)
	}
	return a, nil
}

// want sends a request that has to be answered with the status.
func (c *client) want(status int, method, url string, body any, options ...option) answer {
	c.t.Helper()
	a, err := c.try(method, url, body, options...)
	if err != nil {
		c.t.Fatal(err)
	}
	if a.status != status {
		c.t.Fatalf("%s: %d, want %d: %.2000s", a.what, a.status, status, a.body)
	}
	if status >= 400 && a.header.Get("Content-Type") != "application/problem+json" && method != http.MethodHead {
		c.t.Errorf("%s: an error as %s", a.what, a.header.Get("Content-Type"))
	}
	return a
}

// into decodes the answer's JSON.
func into[T any](a answer) T {
	a.t.Helper()
	var v T
	if err := json.Unmarshal(a.body, &v); err != nil {
		a.t.Fatalf("%s: %v: %.2000s", a.what, err, a.body)
	}
	return v
}

// object is a JSON object as it came.
type object = map[string]any

// keySet is a JWKS.
type keySet struct{ Keys []object }

// person is a user that the test made up.
type person struct{ email, password string }

// newPerson makes up a user and tells the ledger what must stay secret.
func (c *client) newPerson() person {
	p := person{
		email:    "Ana." + randomText() + "@ejemplo.example",
		password: "una frase larga " + randomText(),
	}
	c.ledger.secret("an e-mail address", p.email)
	c.ledger.secret("a password", p.password)
	return p
}

// register registers the person and returns the user's id.
func (c *client) register(auth string, p person) string {
	c.t.Helper()
	a := c.want(http.StatusCreated, http.MethodPost, auth+"/authn/register", object{
		"email": p.email, "password": p.password, "first_name": "Ana", "last_name": "García", "company": "Ejemplo S. L.",
	})
	u := into[object](a)
	id, _ := u["id"].(string)
	if id == "" || !strings.EqualFold(str(u["email"]), p.email) || u["password"] != nil || bytes.Contains(a.body, []byte(p.password)) {
		c.t.Fatalf("register answered %s", a.body)
	}
	return id
}

// pair is what login and refresh answer.
type pair struct {
	Access       string `json:"access"`
	Refresh      string `json:"refresh"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
}

// pairOf reads the tokens out of an answer, and tells the ledger of them.
func (c *client) pairOf(a answer) pair {
	c.t.Helper()
	p := into[pair](a)
	if p.Access == "" || p.Access != p.AccessToken || p.Refresh == "" || p.Refresh != p.RefreshToken ||
		p.TokenType != "Bearer" || p.ExpiresIn <= 0 || a.header.Get("Cache-Control") != "no-store" {
		c.t.Fatalf("%s: not a pair of tokens, or one that a cache may keep: %v", a.what, a.header)
	}
	c.ledger.secret("an access token", p.Access)
	c.ledger.secret("a refresh token", p.Refresh)
	return p
}

// login gets the person's tokens.
func (c *client) login(auth string, p person) pair {
	c.t.Helper()
	return c.pairOf(c.want(http.StatusOK, http.MethodPost, auth+"/authn/token", object{"email": p.email, "password": p.password}))
}

// refresh gets the next pair.
func (c *client) refresh(auth, refresh string) pair {
	c.t.Helper()
	return c.pairOf(c.want(http.StatusOK, http.MethodPost, auth+"/authn/token/refresh", object{"refresh": refresh}))
}

// create stores an inmueble and returns it as answered.
func (c *client) create(api, token string, m object) object {
	c.t.Helper()
	return into[object](c.want(http.StatusCreated, http.MethodPost, api+"/inmuebles", m, bearer(token)))
}

// newInmueble is a valid body for POST.
func newInmueble() object {
	return object{
		"other_id": "A1", "build_status": 1, "is_active": true, "start_month": 3, "date_in": "2026-01-15",
		"property_type": 1, "end_week": 12, "typology_type": 2, "x_coord": -3.7038, "y_coord": 40.4168,
		"listing_type": 1, "date": "2026-01-20", "title": "Piso en Sol",
	}
}

// str is a JSON value that should be text, else "".
func str(v any) string {
	s, _ := v.(string)
	return s
}
