package keys_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

// claims are those of an access token, as authn issues it.
var claims = struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  string   `json:"aud"`
	ClientID  string   `json:"client_id"`
	Expires   int64    `json:"exp"`
	IssuedAt  int64    `json:"iat"`
	ID        string   `json:"jti"`
	Session   string   `json:"sid"`
	Scope     string   `json:"scope"`
	Roles     []string `json:"roles"`
	UserID    string   `json:"user_id"`
	TokenType string   `json:"token_type"`
}{
	"https://id.example", "01a203e0-beac-7480-9f3b-f73098445376", "inmuebles", "urbandata", 1795361690, 1795361385,
	"0c147303-4b5d-44ae-b88f-a568bb704654", "01a203e0-bfe2-79ba-abcd-d1a2200d74a5", "inmuebles:read inmuebles:write",
	[]string{"user"},
	"01a203e0-beac-7480-9f3b-f73098445376", "access",
}

func marshalClaims(b *testing.B) []byte {
	payload, err := json.Marshal(claims)
	if err != nil {
		b.Fatal(err)
	}
	return payload
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkSign measures a token, from its claims to the string, against one
// json.Marshal and the bare signature of a message of that length, and reports
// the ratio of the medians: the two are interleaved, so a busy machine slows
// both. ns/op is the sum of the two. The bound is 1.10 for EdDSA and 1.03 for
// RS256.
func BenchmarkSign(b *testing.B) {
	k := newKeeper(b, memory(b), keys.DefaultPolicy(), keys.Options{})
	tick(b, k)
	message := make([]byte, len(`{"alg":"EdDSA","kid":"","typ":"at+jwt"}`)+43+4*len(marshalClaims(b))/3)

	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	bare := map[jose.SignatureAlgorithm]func(){
		jose.EdDSA: func() { ed25519.Sign(ed, message) },
		jose.RS256: func() {
			digest := sha256.Sum256(message)
			if _, err := rsa.SignPKCS1v15(nil, rs, crypto.SHA256, digest[:]); err != nil {
				b.Fatal(err)
			}
		},
	}
	library := map[jose.SignatureAlgorithm]any{jose.EdDSA: ed, jose.RS256: rs}

	for _, alg := range []jose.SignatureAlgorithm{jose.EdDSA, jose.RS256} {
		theirs, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: library[alg], KeyID: "k"}},
			(&jose.SignerOptions{}).WithType("at+jwt"))
		if err != nil {
			b.Fatal(err)
		}
		for _, bench := range []struct {
			name  string
			token func() error
		}{
			{"ours", func() error {
				s, err := k.Signer(alg)
				if err == nil {
					_, err = s.Sign("at+jwt", marshalClaims(b))
				}
				return err
			}},
			{"go-jose", func() error {
				jws, err := theirs.Sign(marshalClaims(b))
				if err == nil {
					_, err = jws.CompactSerialize()
				}
				return err
			}},
		} {
			b.Run(fmt.Sprintf("%s/%s", alg, bench.name), func(b *testing.B) {
				b.ReportAllocs()
				var spent, raw []time.Duration
				for b.Loop() {
					start := time.Now()
					if err := bench.token(); err != nil {
						b.Fatal(err)
					}
					middle := time.Now()
					marshalClaims(b)
					bare[alg]()
					spent, raw = append(spent, middle.Sub(start)), append(raw, time.Since(middle))
				}
				b.ReportMetric(float64(median(spent))/float64(median(raw)), "x/raw")
				b.ReportMetric(float64(median(spent)), "median-ns")
			})
		}
	}
}

// BenchmarkStep evaluates a ring of twenty keys at rest.
func BenchmarkStep(b *testing.B) {
	h := newHistory(b, jose.EdDSA, jose.RS256)
	h.policy.Retention = 9 * 30 * 24 * time.Hour
	for i := range 9 {
		h.at(time.Duration(i) * h.policy.RotationPeriod)
	}
	for len(h.ring.Keys) > 20 {
		h.ring.Keys = h.ring.Keys[1:]
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, events := keys.Step(h.now, h.ring, nil, h.policy, keys.Evidence{}); len(events) > 0 {
			b.Fatal(events)
		}
	}
	b.ReportMetric(float64(len(h.ring.Keys)), "keys")
}

// BenchmarkTick is a tick with nothing to do: one query.
func BenchmarkTick(b *testing.B) {
	w := &wire{Store: memory(b)}
	k := newKeeper(b, w, edOnly(), keys.Options{})
	tick(b, k, k)
	loads, swaps := w.loads, w.swaps
	b.ReportAllocs()
	for b.Loop() {
		tick(b, k)
	}
	b.ReportMetric(float64(w.loads-loads+w.swaps-swaps)/float64(b.N), "queries/op")
}

// BenchmarkGrowth measures what the keeper does with 40 keys in the ring,
// against two: one that signs and one that stands by. A tick looks at every
// key, but it is one every few seconds, and no request waits for it.
func BenchmarkGrowth(b *testing.B) {
	few, many := newKeeper(b, memory(b), edOnly(), keys.Options{}), newKeeper(b, memory(b), edOnly(), keys.Options{})
	tick(b, few, few, many, many)
	for len(many.Ring().Keys) < 40 {
		if err := many.Rotate(b.Context(), jose.EdDSA, true); err != nil {
			b.Fatal(err)
		}
		tick(b, many)
	}
	payload := marshalClaims(b)
	for _, tc := range []struct {
		name string
		do   func(*keys.Keeper)
	}{
		{"sign", func(k *keys.Keeper) {
			s, err := k.Signer(jose.EdDSA)
			if err == nil {
				_, err = s.Sign("at+jwt", payload)
			}
			if err != nil {
				b.Fatal(err)
			}
		}},
		{"tick", func(k *keys.Keeper) { tick(b, k) }},
	} {
		b.Run("keys/"+tc.name, func(b *testing.B) {
			var first, then []time.Duration
			for b.Loop() {
				start := time.Now()
				tc.do(few)
				middle := time.Now()
				tc.do(many)
				first, then = append(first, middle.Sub(start)), append(then, time.Since(middle))
			}
			b.ReportMetric(float64(median(then))/float64(median(first)), "x/2-keys")
			b.ReportMetric(float64(median(then))/1e3, "µs-40-keys")
		})
	}
}

// BenchmarkSaw is what the JWKS handler does for a verifier with a name, which
// goes on with the same set.
func BenchmarkSaw(b *testing.B) {
	k := newKeeper(b, memory(b), edOnly(), keys.Options{})
	tick(b, k, k)
	set, err := k.JWKS()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		k.Saw("inmuebles", set.ETag)
	}
}

// BenchmarkRotate measures what rotations, one after the other, cost those who
// sign meanwhile: by how much their slowest hundredth is slower than just
// after, with no rotation. Nobody waits for a lock; what shows is the work of
// the rotation on a processor that both need.
func BenchmarkRotate(b *testing.B) {
	k := newKeeper(b, memory(b), edOnly(), keys.Options{})
	tick(b, k, k)
	payload := marshalClaims(b)
	signing := func(stop <-chan struct{}) (spent []time.Duration) {
		for {
			select {
			case <-stop:
				return spent
			default:
			}
			start := time.Now()
			s, err := k.Signer(jose.EdDSA)
			if err == nil {
				_, err = s.Sign("at+jwt", payload)
			}
			if err != nil {
				b.Errorf("sign during a rotation: %v", err)
				return spent
			}
			spent = append(spent, time.Since(start))
		}
	}
	slowest := func(spent []time.Duration) float64 {
		slices.Sort(spent)
		return float64(spent[len(spent)*99/100]) / 1e6
	}

	stop, busy := make(chan struct{}), make(chan []time.Duration, 1)
	go func() { busy <- signing(stop) }()
	start := time.Now()
	for b.Loop() {
		if err := k.Rotate(b.Context(), jose.EdDSA, true); err != nil {
			b.Fatal(err)
		}
	}
	took := time.Since(start)
	close(stop)
	rotating := <-busy
	stop = make(chan struct{})
	time.AfterFunc(took, func() { close(stop) })
	still := signing(stop)
	if len(rotating) < 100 || len(still) < 100 {
		return // too short a run to say anything
	}
	b.ReportMetric(slowest(rotating)-slowest(still), "extra-p99-ms")
}

// BenchmarkFirstTick is what a service waits for on its very first start.
func BenchmarkFirstTick(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		k := newKeeper(b, memory(b), keys.DefaultPolicy(), keys.Options{})
		b.StartTimer()
		tick(b, k)
	}
}

// BenchmarkRestart is the first tick on a ring that is there.
func BenchmarkRestart(b *testing.B) {
	store := memory(b)
	first := newKeeper(b, store, keys.DefaultPolicy(), keys.Options{})
	tick(b, first, first)
	for b.Loop() {
		tick(b, newKeeper(b, store, keys.DefaultPolicy(), keys.Options{}))
	}
}
