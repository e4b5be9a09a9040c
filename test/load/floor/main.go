//go:build unix

// Command floor is the least that a service of this kind can do, for test/load
// to compare with: a bare mux, one statement of the bare driver, one hash or
// signature of the bare primitive, and what is stored as it stands. It checks
// nothing that comes in or goes out but the token's signature, limits nothing,
// audits nothing, writes no log, and counts only what its runtime counts.
//
//	FLOOR_POSTGRES=postgres://… FLOOR_MONGODB=mongodb://… floor -metrics-listen 127.0.0.1:9999 -jwks http://127.0.0.1:8000/.well-known/jwks.json
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"
	"github.com/jmoiron/sqlx"
	_ "github.com/lib/pq"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"golang.org/x/crypto/argon2"
)

// floor is the service.
type floor struct {
	jwks   []byte
	fields http.Header                  // that authn sends the key set with
	public map[string]ed25519.PublicKey // whose tokens it takes, by kid
	sign   ed25519.PrivateKey           // what it signs its own by

	register, find, keep, client *sqlx.Stmt
	inmuebles                    *mongo.Collection
}

func main() {
	metrics := flag.String("metrics-listen", "127.0.0.1:0", "where to serve /metrics")
	jwks := flag.String("jwks", "", "URL of the issuer's key set")
	flag.Parse()
	if err := run(context.Background(), *metrics, *jwks); err != nil {
		log.Fatal("floor: ", err)
	}
}

func run(ctx context.Context, metrics, jwks string) error {
	f := &floor{public: map[string]ed25519.PublicKey{}}
	var err error
	if f.jwks, f.fields, err = fetch(ctx, jwks); err != nil {
		return err
	}
	var set struct {
		Keys []struct {
			Kty, Kid string
			X        string
		}
	}
	if err := json.Unmarshal(f.jwks, &set); err != nil {
		return fmt.Errorf("read the key set: %w", err)
	}
	for _, k := range set.Keys {
		if k.Kty == "OKP" {
			if f.public[k.Kid], err = base64.RawURLEncoding.DecodeString(k.X); err != nil {
				return fmt.Errorf("read the key %s: %w", k.Kid, err)
			}
		}
	}
	if _, f.sign, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	if err := f.openPostgres(ctx); err != nil {
		return fmt.Errorf("PostgreSQL: %w", err)
	}
	client, err := mongo.Connect(ctx, options.Client().ApplyURI(os.Getenv("FLOOR_MONGODB")))
	if err != nil {
		return errors.New("MongoDB can't be reached")
	}
	f.inmuebles = client.Database(os.Getenv("FLOOR_MONGODB_NAME")).Collection("inmuebles")

	debug := http.NewServeMux()
	debug.Handle("GET /metrics", promhttp.Handler())
	failed := make(chan error, 2)
	for address, h := range map[string]http.Handler{metrics: debug, "127.0.0.1:0": f.routes()} {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		if address != metrics {
			slog.New(slog.NewJSONHandler(os.Stderr, nil)).Info("floor is up", "address", l.Addr().String())
		}
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
		go func() { failed <- srv.Serve(l) }()
	}
	return <-failed
}

func fetch(ctx context.Context, url string) ([]byte, http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("fetch the key set: %w", err)
	}
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, nil, fmt.Errorf("fetch the key set: %w", err)
	}
	defer func() { _ = w.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(w.Body, 1<<20))
	return body, w.Header, err
}

func (f *floor) openPostgres(ctx context.Context) error {
	db, err := sqlx.ConnectContext(ctx, "postgres", os.Getenv("FLOOR_POSTGRES"))
	if err != nil {
		return errors.New("it can't be reached") // the driver's text may have the password
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	for _, statement := range []string{
		`CREATE TABLE users (id uuid PRIMARY KEY, email text NOT NULL UNIQUE, salt bytea NOT NULL, hash bytea NOT NULL)`,
		`CREATE TABLE sessions (id uuid PRIMARY KEY, hash bytea NOT NULL)`,
		`CREATE TABLE clients (id text PRIMARY KEY, hash bytea NOT NULL)`,
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("make a table: %w", err)
		}
	}
	hash := sha256.Sum256([]byte("floor"))
	if _, err := db.ExecContext(ctx, `INSERT INTO clients VALUES ('floor', $1)`, hash[:]); err != nil {
		return fmt.Errorf("make the client: %w", err)
	}
	for to, statement := range map[**sqlx.Stmt]string{
		&f.register: `INSERT INTO users (id, email, salt, hash) VALUES ($1, $2, $3, $4)`,
		&f.find:     `SELECT id, salt, hash FROM users WHERE email = $1`,
		&f.keep:     `INSERT INTO sessions (id, hash) VALUES ($1, $2)`,
		&f.client:   `SELECT hash FROM clients WHERE id = $1`,
	} {
		if *to, err = db.PreparexContext(ctx, statement); err != nil { //nolint:sqlclosecheck // as long as the process
			return fmt.Errorf("prepare: %w", err)
		}
	}
	return nil
}

// handler is a route that says by its error what went wrong.
type handler func(w http.ResponseWriter, r *http.Request) error

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h(w, r); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (f *floor) routes() http.Handler {
	m := mux.NewRouter()
	m.Handle("/register", handler(f.signUp)).Methods(http.MethodPost)
	m.Handle("/login", handler(f.logIn)).Methods(http.MethodPost)
	m.Handle("/refresh", handler(f.refresh)).Methods(http.MethodPost)
	m.Handle("/client_credentials", handler(f.clientCredentials)).Methods(http.MethodPost)
	m.HandleFunc("/jwks", f.keySet).Methods(http.MethodGet)
	m.Handle("/inmuebles/{id}", f.verified(f.get)).Methods(http.MethodGet)
	m.Handle("/list", f.verified(f.list)).Methods(http.MethodGet)
	m.Handle("/filter", f.verified(f.filter)).Methods(http.MethodGet)
	m.Handle("/export", f.verified(f.export)).Methods(http.MethodGet)
	m.Handle("/inmuebles", f.verified(f.post)).Methods(http.MethodPost)
	m.Handle("/import", f.verified(f.load)).Methods(http.MethodPost)
	return m
}

func send(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) //nolint:gosec // JSON, as it says; the client may have left
}

// keySet sends the same bytes as authn, header fields among them.
func (f *floor) keySet(w http.ResponseWriter, _ *http.Request) {
	for name, values := range f.fields {
		w.Header()[name] = values
	}
	_, _ = w.Write(f.jwks) // the client may have left
}

// credentials are what people register and log in by.
type credentials struct{ Email, Password string }

// hash is argon2id with the parameters that authn has.
func hash(password string, salt []byte) []byte {
	return argon2.IDKey([]byte(password), salt, 2, 19<<10, 1, 32)
}

func (f *floor) signUp(w http.ResponseWriter, r *http.Request) error {
	var c credentials
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		return err
	}
	salt, id := make([]byte, 16), uuid.New()
	_, _ = rand.Read(salt) // never fails
	if _, err := f.register.ExecContext(r.Context(), id, c.Email, salt, hash(c.Password, salt)); err != nil {
		return err
	}
	send(w, http.StatusCreated, []byte(`{"id":"`+id.String()+`"}`))
	return nil
}

func (f *floor) logIn(w http.ResponseWriter, r *http.Request) error {
	var c credentials
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		return err
	}
	var user struct {
		ID         uuid.UUID
		Salt, Hash []byte
	}
	if err := f.find.GetContext(r.Context(), &user, c.Email); err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(hash(c.Password, user.Salt), user.Hash) != 1 {
		return errors.New("wrong password")
	}
	return f.pair(w, r, user.ID)
}

// refresh trusts whoever asks: the floor is one row and one signature.
func (f *floor) refresh(w http.ResponseWriter, r *http.Request) error {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	return f.pair(w, r, uuid.New())
}

// pair keeps a new refresh token and sends it with an access token.
func (f *floor) pair(w http.ResponseWriter, r *http.Request, sub uuid.UUID) error {
	refresh := rand.Text()
	kept := sha256.Sum256([]byte(refresh))
	if _, err := f.keep.ExecContext(r.Context(), uuid.New(), kept[:]); err != nil {
		return err
	}
	access, err := f.issue(sub.String())
	if err != nil {
		return err
	}
	send(w, http.StatusOK, []byte(`{"access":"`+access+`","refresh":"`+refresh+`"}`))
	return nil
}

func (f *floor) clientCredentials(w http.ResponseWriter, r *http.Request) error {
	id, secret, _ := r.BasicAuth()
	if err := r.ParseForm(); err != nil {
		return err
	}
	var kept []byte
	if err := f.client.GetContext(r.Context(), &kept, id); err != nil {
		return err
	}
	if given := sha256.Sum256([]byte(secret)); subtle.ConstantTimeCompare(given[:], kept) != 1 {
		return errors.New("wrong secret")
	}
	access, err := f.issue(id)
	if err != nil {
		return err
	}
	send(w, http.StatusOK, []byte(`{"access_token":"`+access+`","token_type":"Bearer","expires_in":300}`))
	return nil
}

// claims are those that authn's tokens have, but for what people add.
type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience string   `json:"aud"`
	Expires  int64    `json:"exp"`
	Issued   int64    `json:"iat"`
	ID       string   `json:"jti"`
	Client   string   `json:"client_id"`
	Scope    string   `json:"scope"`
	Roles    []string `json:"roles"`
}

func (f *floor) issue(sub string) (string, error) {
	now := time.Now().Unix()
	payload, err := json.Marshal(claims{"https://floor.example", sub, "inmuebles", now + 300, now, uuid.NewString(), "floor", "inmuebles:read", []string{}})
	if err != nil {
		return "", err
	}
	const header = `{"alg":"EdDSA","typ":"at+jwt","kid":"floor"}`
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(f.sign, []byte(signed))), nil
}

// verified lets through who has a token with a good signature.
func (f *floor) verified(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !f.good(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (f *floor) good(token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
			return false
		}
	}
	var header struct{ Alg, Kid string }
	var c claims
	if json.Unmarshal(decoded[0], &header) != nil || json.Unmarshal(decoded[1], &c) != nil {
		return false
	}
	key := f.public[header.Kid]
	return key != nil && header.Alg == "EdDSA" && time.Now().Unix() < c.Expires &&
		ed25519.Verify(key, []byte(parts[0]+"."+parts[1]), decoded[2])
}
