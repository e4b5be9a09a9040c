package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"math/big"
	"runtime"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestErase(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, rsPublic, ecPublic := detached(ed.Public()), detached(rs.Public()), detached(ec.Public())
	for _, private := range []crypto.Signer{ed, rs, ec} {
		erase(private)
	}
	if !bytes.Equal(ed, make([]byte, len(ed))) {
		t.Error("the Ed25519 key is still there")
	}
	for name, n := range map[string]*big.Int{
		"D": rs.D, "p": rs.Primes[0], "q": rs.Primes[1], "dp": rs.Precomputed.Dp, "dq": rs.Precomputed.Dq, "qinv": rs.Precomputed.Qinv,
		"d": ec.D, //nolint:staticcheck // it is what was erased
	} {
		for _, word := range n.Bits() {
			if word != 0 {
				t.Errorf("%s is still there", name)
				break
			}
		}
	}
	// The public halves are copies, and live on.
	if !isRSA(rsPublic) || rsPublic.(*rsa.PublicKey).N.Sign() == 0 || !isP256(ecPublic) || !isEd25519(edPublic) {
		t.Error("a public half was erased")
	}
	erase(nil) // what couldn't be parsed
}

// erasable stands for a private half that lives elsewhere.
type erasable struct{ gone chan struct{} }

func (*erasable) Public() crypto.PublicKey { return ed25519.PublicKey(make([]byte, 32)) }
func (*erasable) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, 64), nil
}
func (e *erasable) Erase() { close(e.gone) }

// The private half goes with the last reference to its signer, and not while
// somebody has one.
func TestASignerIsErasedWhenNobodyHasIt(t *testing.T) {
	private := &erasable{make(chan struct{})}
	s := newSigner(&Key{ID: "k", Alg: jose.EdDSA}, private, rand.Reader)
	for range 3 {
		runtime.GC()
	}
	select {
	case <-private.gone:
		t.Fatal("it was erased while it was held")
	default:
	}
	if _, err := s.Sign("at+jwt", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	s = nil
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		runtime.GC()
		select {
		case <-private.gone:
			return
		case <-ctx.Done():
			t.Fatal("it was never erased")
		default:
			runtime.Gosched()
		}
	}
}
