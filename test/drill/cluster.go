//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/test/process"
)

// replicas is how many authservers run.
const replicas = 3

// cluster is the issuer on trial: replicas on one database, behind a
// round-robin that anybody reaches at url.
type cluster struct {
	url      string
	policy   keys.Policy
	db       *postgres
	store    *keys.SQLStore
	keeper   *keys.Keeper // looks at the ring; the thief has it too
	replicas [replicas]*replica

	pool   *sqlx.DB
	naive  bool
	cdn    bool
	server *http.Server
	client *http.Client
	turn   atomic.Uint64

	mu     sync.Mutex // guards cached
	cached *response
}

// replica is one authserver, which may be dead.
type replica struct {
	starter *process.Starter
	name    string
	binary  string
	args    []string
	env     []string
	log     *os.File

	mu      sync.Mutex // guards what follows
	process *process.Process
	address string // "" before its first start; kept when it dies, as a load balancer would
}

func startCluster(ctx context.Context, s *process.Starter, scratch string, o options, policy keys.Policy, db *postgres) (*cluster, error) {
	binary := filepath.Join(scratch, "replica")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/urbandata/urbandata/test/drill/replica") //nolint:gosec // a name in the scratch folder
	build.Dir = source()
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build a replica: %w\n%s", err, out)
	}
	sealing := keys.GenerateSealingKey()
	sealer, err := keys.NewSealer(sealing)
	if err != nil {
		return nil, fmt.Errorf("use the sealing key: %w", err)
	}
	c := &cluster{
		policy: policy, db: db, naive: o.naive, cdn: o.cdn,
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}},
	}
	if c.pool, err = sqlx.Open("postgres", db.url); err != nil {
		return nil, fmt.Errorf("open PostgreSQL: %w", err)
	}
	c.store = keys.NewSQLStore(c.pool)
	if c.keeper, err = keys.NewKeeper(c.store, sealer, policy, keys.Options{Name: "drill", Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, fmt.Errorf("look at the keys: %w", err)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a local bind
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	c.url = "http://" + l.Addr().String()
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = c.server.Serve(l) }() // until close

	logs := filepath.Join(scratch, "logs")
	if err := os.Mkdir(logs, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for logs: %w", err)
	}
	errs := make(chan error, replicas)
	for i := range c.replicas {
		name := fmt.Sprintf("replica %d", i+1)
		log, err := os.Create(filepath.Join(logs, strconv.Itoa(i+1)))
		if err != nil {
			return nil, fmt.Errorf("make a log: %w", err)
		}
		r := &replica{
			starter: s, name: name, binary: binary, log: log,
			args: []string{
				"authserver", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--issuer", c.url, "--log-format", "json",
				"--audience", "drill-rs256=RS256;drill-eddsa=EdDSA", "--drain-delay", "0s",
				"--token-life", policy.TokenLife.String(),
				"--keys-rotation-period", policy.RotationPeriod.String(), "--keys-announce-lead", policy.AnnounceLead.String(),
				"--keys-retention", policy.Retention.String(), "--keys-jwks-max-age", policy.JWKSMaxAge.String(),
				"--keys-leeway", policy.Leeway.String(), "--keys-tick", policy.Tick.String(), "--keys-skew", policy.Skew.String(),
				"--keys-replica-lag", policy.ReplicaLag.String(), "--keys-verifier-slack", policy.VerifierSlack.String(),
				"--keys-max-hold", policy.MaxHold.String(),
			},
			env: []string{
				"PATH=" + os.Getenv("PATH"), "HOME=" + scratch,
				"URBANDATA_AUTH_DATABASE=" + db.url, "URBANDATA_SEALING_KEY=" + sealing.Encode(),
			},
		}
		if i == replicas-1 {
			r.env = append(r.env, "URBANDATA_DRILL_CLOCK_OFFSET="+clockOffset(policy).String())
		}
		c.replicas[i] = r
		go func() { errs <- r.start(ctx) }() // all at the same moment, on an empty database
	}
	for range c.replicas {
		err = errors.Join(err, <-errs)
	}
	return c, err
}

func (c *cluster) close() {
	_ = c.server.Close()
	c.client.CloseIdleConnections()
	_ = c.pool.Close() // nothing of the drill's is lost with it
}

// start starts a replica that isn't running, and returns when it listens.
func (r *replica) start(ctx context.Context) error {
	cmd := exec.Command(r.binary, r.args...) //nolint:gosec,noctx // built above; ended by the starter
	cmd.Env, cmd.Stdout = r.env, r.log
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("start %s: %w", r.name, err)
	}
	started, err := r.starter.Start(cmd)
	if err != nil {
		return fmt.Errorf("start %s: %w", r.name, err)
	}
	addresses := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			_, _ = r.log.Write(append(lines.Bytes(), '\n')) // for a person, should something fail
			var entry struct{ Msg, Address string }
			if json.Unmarshal(lines.Bytes(), &entry) == nil && entry.Msg == "authn is up" {
				addresses <- entry.Address
			}
		}
	}()
	var address string
	select {
	case address = <-addresses:
	case <-started.Done():
		text, _ := os.ReadFile(r.log.Name())
		return fmt.Errorf("%s ended instead of listening:\n%s", r.name, text[max(0, len(text)-2000):])
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process, r.address = started, address
	return nil
}

// kill ends a replica as a power cut would.
func (r *replica) kill() {
	r.mu.Lock()
	running := r.process
	r.process = nil
	r.mu.Unlock()
	if running != nil {
		running.Kill()
	}
}

func (r *replica) at() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.address
}

// response is an answer, read to its end.
type response struct {
	status int
	header http.Header
	body   []byte
	at     time.Time
}

const jwksPath = "/.well-known/jwks.json"

// ServeHTTP is the round-robin. A GET that a dying replica didn't answer goes
// to the next one, as with any load balancer; a POST does only when it wasn't
// taken.
func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	jwks := r.URL.Path == jwksPath
	var answer *response
	if jwks {
		answer = c.fromCache()
	}
	if answer == nil {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			answer, err = c.pass(r, body)
		}
		if err == nil && jwks && c.naive {
			answer.body, err = c.withoutAnnounced(r.Context(), answer.body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		if jwks && c.cdn && answer.status == http.StatusOK {
			c.mu.Lock()
			c.cached = answer
			c.mu.Unlock()
		}
	}
	for name, values := range answer.header {
		if name != "Content-Length" {
			w.Header()[name] = values
		}
	}
	if age := time.Since(answer.at); jwks && c.cdn {
		w.Header().Set("Age", strconv.Itoa(int(age/time.Second)))
	}
	w.WriteHeader(answer.status)
	_, _ = w.Write(answer.body) // the client may have left
}

// fromCache is the JWKS while it is fresh (RFC 9111 §4.2).
func (c *cluster) fromCache() *response {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cached == nil || time.Since(c.cached.at) >= c.policy.JWKSMaxAge {
		return nil
	}
	return c.cached
}

func (c *cluster) pass(r *http.Request, body []byte) (*response, error) {
	var last error
	for range 2 * replicas {
		address := c.replicas[c.turn.Add(1)%replicas].at()
		if address == "" {
			continue
		}
		out, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+address+r.URL.RequestURI(), bytes.NewReader(body)) //nolint:gosec // passing requests on to replicas is what it is for
		if err != nil {
			return nil, err
		}
		out.Header = r.Header.Clone()
		began := time.Now()             // a cached answer's age counts from before it was made
		answer, err := c.client.Do(out) //nolint:gosec // the same
		if err == nil {
			var content []byte
			content, err = io.ReadAll(io.LimitReader(answer.Body, 1<<20))
			_ = answer.Body.Close()
			if err == nil {
				return &response{answer.StatusCode, answer.Header, content, began}, nil
			}
		}
		last = err
		var dial *net.OpError
		if r.Method != http.MethodGet && (!errors.As(err, &dial) || dial.Op != "dial") {
			break
		}
	}
	return nil, fmt.Errorf("no replica answers: %w", last)
}

// withoutAnnounced takes the keys out of a JWKS that don't sign yet.
func (c *cluster) withoutAnnounced(ctx context.Context, body []byte) ([]byte, error) {
	ring, err := c.store.Load(ctx)
	if err != nil {
		return nil, err
	}
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("read the JWKS: %w", err)
	}
	published := []map[string]any{}
	for _, jwk := range set.Keys {
		kid, _ := jwk["kid"].(string)
		if k := ring.Key(kid); k == nil || k.State != keys.Announced {
			published = append(published, jwk)
		}
	}
	set.Keys = published
	return json.Marshal(set)
}

// administrator is who rotates and revokes over HTTP.
const administrator = "operator@drill.example"

// makeAdministrator uses the command line, as an operator would.
func (c *cluster) makeAdministrator(ctx context.Context) error {
	r := c.replicas[0]
	cmd := exec.CommandContext(ctx, r.binary, "users", "create", "--role", "admin", administrator) //nolint:gosec // built above
	cmd.Env = append([]string{"URBANDATA_PASSWORD=" + password}, r.env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make an administrator: %w\n%s", err, out)
	}
	return nil
}

// manage sends a change of keys to /admin/keys until it is answered: replicas
// die, and so does the database, but for one Idempotency-Key it is made once.
func (c *cluster) manage(ctx context.Context, path string, in any) error {
	key := rand.Text()
	return until(ctx, time.Minute, "the change is made", func() error {
		var got tokens
		if _, err := c.post(ctx, "/authn/token", map[string]string{"email": administrator, "password": password, "audience": "authn"}, &got); err != nil {
			return err
		}
		status, err := c.post(ctx, "/admin/keys/"+path, in, nil, map[string]string{"Authorization": "Bearer " + got.Access, "Idempotency-Key": key})
		if status == http.StatusConflict && strings.Contains(err.Error(), "not_standby") {
			return nil // the schedule was faster, by a whole rotation
		}
		return err
	})
}

// post calls the issuer as a client does, and decodes its answer into out.
// fields are more header fields.
func (c *cluster) post(ctx context.Context, path string, in, out any, fields ...map[string]string) (status int, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	for _, f := range fields {
		for name, value := range f {
			r.Header.Set(name, value)
		}
	}
	answer, err := c.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	content, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode < 300 && out != nil {
		err = json.Unmarshal(content, out)
	}
	if err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("%s answers %d: %.200s", path, answer.StatusCode, content)
	}
	return answer.StatusCode, err
}

// kidOf reads a token's header.
func kidOf(token string) string {
	head, _, _ := strings.Cut(token, ".")
	raw, _ := base64.RawURLEncoding.DecodeString(head)
	var h struct{ Kid string }
	_ = json.Unmarshal(raw, &h) // then it has none
	return h.Kid
}

func madeUpKid() string { return rand.Text() }

func decode64(text string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(text) }
