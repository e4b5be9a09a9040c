package keys

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// These tests look at what is stored from the inside: rows and boxes that no
// caller of the package can make.

func testSealer(t testing.TB, secret byte) Sealer {
	t.Helper()
	s, err := NewSealer(SealingKey{secret: [32]byte{secret}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testKey(t testing.TB, sealer Sealer, alg jose.SignatureAlgorithm) Key {
	t.Helper()
	k, err := makeKey(context.Background(), sealer, rand.Reader, alg, 2048)
	if err != nil {
		t.Fatal(err)
	}
	k.State = Signing
	return k
}

func TestOpenKey(t *testing.T) {
	sealer := testSealer(t, 1)
	a, b := testKey(t, sealer, jose.EdDSA), testKey(t, sealer, jose.EdDSA)
	moved := a
	moved.Sealed = b.Sealed
	relabelled := a
	relabelled.Alg = jose.RS256
	foreignHalf := a // sealed properly for a, but the half of b
	private, err := openKey(t.Context(), sealer, &b)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if foreignHalf.Sealed, err = seal(t.Context(), sealer, a.ID, a.Alg, der); err != nil {
		t.Fatal(err)
	}
	noHalf := a
	if noHalf.Sealed, err = seal(t.Context(), sealer, a.ID, a.Alg, []byte("not PKCS #8")); err != nil {
		t.Fatal(err)
	}
	garbage := a
	garbage.Sealed = Sealed("garbage")
	for _, tc := range []struct {
		name   string
		key    Key
		sealer Sealer
		want   error
	}{
		{"as it was made", a, sealer, nil},
		{"another sealing key", a, testSealer(t, 2), ErrSealed},
		{"a box from another row", moved, sealer, ErrSealed},
		{"another algorithm", relabelled, sealer, ErrSealed},
		{"another key's private half", foreignHalf, sealer, ErrSealed},
		{"no private half", noHalf, sealer, ErrSealed},
		{"garbage", garbage, sealer, ErrSealed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := openKey(t.Context(), tc.sealer, &tc.key); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func rowOf(t testing.TB, k Key) keyRow {
	t.Helper()
	public, err := x509.MarshalPKIXPublicKey(k.Public)
	if err != nil {
		t.Fatal(err)
	}
	row := keyRow{
		Version: 1,
		ID:      sql.Null[string]{V: k.ID, Valid: true},
		Alg:     sql.Null[string]{V: string(k.Alg), Valid: true},
		State:   sql.Null[string]{V: string(k.State), Valid: true},
		Public:  public, Sealed: k.Sealed,
	}
	if k.State == Revoked {
		row.RevokedAt = sql.Null[int64]{V: 1, Valid: true}
	}
	return row
}

func TestDecodeRing(t *testing.T) {
	sealer := testSealer(t, 1)
	good, second := rowOf(t, testKey(t, sealer, jose.EdDSA)), rowOf(t, testKey(t, sealer, jose.EdDSA))
	with := func(change func(*keyRow)) []keyRow {
		row := good
		change(&row)
		return []keyRow{row}
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	shortDER, err := x509.MarshalPKIXPublicKey(short.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		rows []keyRow
		want error
	}{
		{"one key", []keyRow{good}, nil},
		{"a new ring", []keyRow{{}}, nil},
		{"no row at all", nil, ErrDamaged},
		{"a used ring without keys", []keyRow{{Version: 3}}, ErrDamaged},
		{"a new ring with keys", with(func(r *keyRow) { r.Version = 0 }), ErrDamaged},
		{"a negative version", []keyRow{{Version: -1}}, ErrDamaged},
		{"the same key twice", []keyRow{good, good}, ErrDamaged},
		{"two signing keys", []keyRow{good, second}, ErrDamaged},
		{"an unknown state", with(func(r *keyRow) { r.State.V = "resting" }), ErrDamaged},
		{"an unknown algorithm", with(func(r *keyRow) { r.Alg.V = "none" }), ErrDamaged},
		{"the algorithm of another key type", with(func(r *keyRow) { r.Alg.V = "RS256" }), ErrDamaged},
		{"another id", with(func(r *keyRow) { r.ID.V = second.ID.V }), ErrDamaged},
		{"no public half", with(func(r *keyRow) { r.Public = nil }), ErrDamaged},
		{"a short RSA key", with(func(r *keyRow) { r.Alg.V, r.Public = "RS256", shortDER }), ErrDamaged},
		{"signing without a private half", with(func(r *keyRow) { r.Sealed = nil }), ErrDamaged},
		{"retired with a private half", with(func(r *keyRow) { r.State.V = "retired" }), ErrDamaged},
		{"signing and revoked", with(func(r *keyRow) { r.RevokedAt.Valid = true }), ErrDamaged},
		{"revoked without a time", with(func(r *keyRow) { r.State.V, r.Sealed = "revoked", nil }), ErrDamaged},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := decodeRing(tc.rows); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func FuzzOpenSealed(f *testing.F) {
	sealer := testSealer(f, 1)
	k := testKey(f, sealer, jose.EdDSA)
	f.Add([]byte(k.Sealed))
	f.Add([]byte{1, 0})
	f.Add([]byte{1, 255, 'x'})
	f.Add([]byte("\x01\x01x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		damaged := k
		damaged.Sealed = b
		_ = damaged.Sealed.String()
		_, err := openKey(context.Background(), sealer, &damaged)
		if same := bytes.Equal(b, k.Sealed); same != (err == nil) {
			t.Fatalf("error %v for the same box: %v", err, same)
		}
		if err != nil && !errors.Is(err, ErrSealed) {
			t.Fatalf("error %v, want ErrSealed", err)
		}
	})
}

func FuzzStoredRow(f *testing.F) {
	sealer := testSealer(f, 1)
	for _, alg := range []jose.SignatureAlgorithm{jose.EdDSA, jose.RS256, jose.ES256} {
		k := testKey(f, sealer, alg)
		row := rowOf(f, k)
		f.Add(int64(1), k.ID, string(alg), "signing", row.Public, row.Sealed, int64(0), int64(1<<62), false)
		f.Add(int64(7), k.ID, string(alg), "revoked", row.Public, []byte(nil), int64(-1<<63), int64(1<<63-1), true)
	}
	f.Fuzz(func(t *testing.T, version int64, id, alg, state string, public, sealed []byte, from, to int64, revoked bool) {
		at := func(ms int64) sql.Null[int64] { return sql.Null[int64]{V: ms, Valid: true} }
		text := func(s string) sql.Null[string] { return sql.Null[string]{V: s, Valid: true} }
		ring, err := decodeRing([]keyRow{{
			Version: version, ID: text(id), Alg: text(alg), State: text(state), Public: public, Sealed: sealed,
			AnnouncedAt: at(from), ReadyAt: at(from), ActivateAt: at(from), RetireAt: at(to), UnpublishAt: at(to),
			RevokedAt: sql.Null[int64]{V: to, Valid: revoked},
		}})
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("error %v, want ErrDamaged", err)
			}
			return
		}
		// A ring that loads can be lived with, whatever times are in it.
		policy := DefaultPolicy()
		now := time.UnixMilli(1_770_000_000_000)
		next, _ := Step(now, ring, nil, policy, Evidence{})
		Needs(now, next, policy, Evidence{})
		Due(next, policy)
		Holdable(now, ring, policy)
		for _, emergency := range []bool{false, true} {
			if rotated, _, err := Rotate(now, next, ring.Keys[0].Alg, emergency); err == nil {
				Step(now, rotated, nil, policy, Evidence{Unserved: true})
			}
		}
		if revoked, _, err := Revoke(now, next, id, "stolen"); err == nil {
			after, _ := Step(now, revoked, nil, policy, Evidence{})
			if k := after.Key(id); k == nil || k.State != Revoked || k.Sealed != nil {
				t.Fatalf("revoked, it is %+v", k)
			}
		}
		if _, err := renderJWKS(next, policy.JWKSMaxAge); err != nil {
			t.Fatal(err)
		}
		if _, ok := ring.Keys[0].Public.(ed25519.PublicKey); ok && ring.Keys[0].Alg != jose.EdDSA {
			t.Fatalf("an Ed25519 key for %s", ring.Keys[0].Alg)
		}
	})
}
