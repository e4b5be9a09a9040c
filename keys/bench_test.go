package keys_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/keys"
)

// payload has the size of an access token's claims.
var payload = func() []byte {
	b := make([]byte, 420)
	_, _ = rand.Read(b)
	return b
}()

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkSign measures a token against the bare signature of its length,
// and reports the ratio of the medians: the two are interleaved, so a busy
// machine slows both. ns/op is the sum of the two.
func BenchmarkSign(b *testing.B) {
	k := newKeeper(b, memory(b), keys.DefaultPolicy(), keys.Options{})
	tick(b, k)
	message := make([]byte, 700)

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
					_, err = s.Sign("at+jwt", payload)
				}
				return err
			}},
			{"go-jose", func() error {
				jws, err := theirs.Sign(payload)
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

// BenchmarkTick is a tick with nothing to do.
func BenchmarkTick(b *testing.B) {
	k := newKeeper(b, memory(b), edOnly(), keys.Options{})
	tick(b, k, k)
	b.ReportAllocs()
	for b.Loop() {
		tick(b, k)
	}
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
