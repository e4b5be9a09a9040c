// Package verifytest is a throw-away issuer for tests of handlers that stand
// behind package verify:
//
//	issuer := verifytest.NewIssuer(t)
//	h := issuer.Verifier(t).Middleware(handler)
//	req.Header.Set("Authorization", "Bearer "+issuer.Token("user-1", "inmuebles:read"))
//
// It signs with the standard library alone, and serves its key set over real
// HTTP. Its keys live as long as the test.
package verifytest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
)

// Audience is the aud of the tokens of an [Issuer].
const Audience = "verifytest"

// An Issuer mints tokens and serves the keys to verify them. It is safe for
// concurrent use.
type Issuer struct {
	// URL is the iss of its tokens, and where it listens.
	URL string

	tb     testing.TB
	algs   []string
	mu     sync.Mutex // guards what follows
	keys   map[string]*signingKey
	olds   []*signingKey // still published
	serial int
}

type signingKey struct {
	id, alg string
	private crypto.Signer
}

// NewIssuer starts an issuer with one key for each of algs (names as in
// package verify; default: EdDSA) and stops it when the test ends.
func NewIssuer(tb testing.TB, algs ...string) *Issuer {
	tb.Helper()
	if len(algs) == 0 {
		algs = []string{verify.EdDSA}
	}
	i := &Issuer{tb: tb, algs: algs, keys: map[string]*signingKey{}}
	i.Rotate()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(i.KeySet())
	})
	server := httptest.NewServer(mux)
	tb.Cleanup(server.Close)
	i.URL = server.URL
	return i
}

// JWKSURL is where the key set is.
func (i *Issuer) JWKSURL() string { return i.URL + "/.well-known/jwks.json" }

// Options is what a verifier of this issuer's tokens needs.
func (i *Issuer) Options() verify.Options {
	return verify.Options{Issuer: i.URL, Audience: Audience, JWKSURL: i.JWKSURL()}
}

// Verifier returns a verifier of this issuer's tokens that holds its keys, and
// stops it when the test ends.
func (i *Issuer) Verifier(tb testing.TB) *verify.Verifier {
	tb.Helper()
	v, err := verify.New(i.Options())
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = v.Run(ctx) })
	tb.Cleanup(func() {
		cancel()
		running.Wait()
	})
	wait, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	if err := v.Wait(wait); err != nil {
		tb.Fatal(err)
	}
	return v
}

// Token mints a good token that lives for five minutes, signed with the first
// of the issuer's algorithms.
func (i *Issuer) Token(subject string, scopes ...string) string {
	return i.Mint(i.algs[0], i.Claims(subject, scopes...))
}

// Claims is what [Issuer.Token] signs, to be changed and given to
// [Issuer.Mint].
func (i *Issuer) Claims(subject string, scopes ...string) token.Claims {
	i.mu.Lock()
	i.serial++
	id := fmt.Sprintf("token-%d", i.serial)
	i.mu.Unlock()
	now := time.Now().Unix()
	return token.Claims{
		Issuer: i.URL, Subject: subject, Audience: token.Audience{Audience}, ClientID: "verifytest",
		Expiry: now + 300, IssuedAt: now, ID: id, Scope: scopes,
		UserID: subject, Use: token.UseAccess,
	}
}

// Mint signs claims (anything that marshals to JSON) with the issuer's key for
// alg.
func (i *Issuer) Mint(alg string, claims any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		i.tb.Fatal(err)
	}
	header := fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":%q}`, alg, i.KeyID(alg), token.TypeAccess)
	return i.Sign(alg, header, string(payload))
}

// Sign signs any header and payload, well-formed or not, with the issuer's key
// for alg, whatever the header says.
func (i *Issuer) Sign(alg, header, payload string) string {
	signed := encode([]byte(header)) + "." + encode([]byte(payload))
	signature, err := i.key(alg).sign([]byte(signed))
	if err != nil {
		i.tb.Fatal(err)
	}
	return signed + "." + encode(signature)
}

// KeyID is the kid of the issuer's present key for alg.
func (i *Issuer) KeyID(alg string) string { return i.key(alg).id }

// PublicKey is the public half of the issuer's present key for alg.
func (i *Issuer) PublicKey(alg string) crypto.PublicKey { return i.key(alg).private.Public() }

func (i *Issuer) key(alg string) *signingKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	k := i.keys[alg]
	if k == nil {
		i.tb.Fatalf("verifytest: the issuer has no %s key: name it in NewIssuer", alg)
	}
	return k
}

// Rotate makes new keys, which sign from now on. The present ones stay in the
// key set until [Issuer.Revoke].
func (i *Issuer) Rotate() {
	fresh := make(map[string]*signingKey, len(i.algs))
	for _, alg := range i.algs {
		k, err := generate(alg)
		if err != nil {
			i.tb.Fatal(err)
		}
		fresh[alg] = k
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, k := range i.keys {
		i.olds = append(i.olds, k)
	}
	i.keys = fresh
}

// Revoke takes every key that no longer signs out of the key set.
func (i *Issuer) Revoke() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.olds = nil
}

// KeySet is the JWK Set that the issuer publishes.
func (i *Issuer) KeySet() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	set := struct {
		Keys []map[string]string `json:"keys"`
	}{}
	published := slices.Clone(i.olds)
	for _, alg := range i.algs {
		published = append(published, i.keys[alg])
	}
	for _, k := range published {
		m, err := k.jwk()
		if err != nil {
			i.tb.Fatal(err)
		}
		set.Keys = append(set.Keys, m)
	}
	doc, err := json.Marshal(set)
	if err != nil {
		i.tb.Fatal(err)
	}
	return doc
}

func generate(alg string) (*signingKey, error) {
	k := &signingKey{id: rand.Text(), alg: alg}
	var err error
	switch alg {
	case verify.EdDSA:
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	case verify.ES256:
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case verify.RS256, verify.PS256:
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = fmt.Errorf("verifytest: unknown algorithm %q", alg)
	}
	return k, err
}

func (k *signingKey) sign(signed []byte) ([]byte, error) {
	sum := sha256.Sum256(signed)
	switch private := k.private.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(private, signed), nil
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, private, sum[:])
		if err != nil {
			return nil, err
		}
		signature := make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		return signature, nil
	case *rsa.PrivateKey:
		if k.alg == verify.PS256 {
			return rsa.SignPSS(rand.Reader, private, crypto.SHA256, sum[:],
				&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	}
	return nil, fmt.Errorf("verifytest: no way to sign with %T", k.private)
}

func (k *signingKey) jwk() (map[string]string, error) {
	m := map[string]string{"kid": k.id, "alg": k.alg, "use": "sig"}
	switch public := k.private.Public().(type) {
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", encode(public)
	case *ecdsa.PublicKey:
		m["kty"], m["crv"] = "EC", "P-256"
		point, err := public.Bytes() // a byte of format, x, y
		if err != nil {
			return nil, err
		}
		m["x"], m["y"] = encode(point[1:33]), encode(point[33:])
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", encode(public.N.Bytes()), encode(big.NewInt(int64(public.E)).Bytes())
	}
	return m, nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
