package keys_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/audit"
)

// All rows move to the new sealing key while keepers run, and from then on
// the new one is enough.
func TestRewrap(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		ctx, store := t.Context(), keys.NewSQLStore(open(t))
		a, b := keys.GenerateSealingKey(), keys.GenerateSealingKey()
		sealer := func(newest keys.SealingKey, older ...keys.SealingKey) keys.Sealer {
			s, err := keys.NewSealer(newest, older...)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		keeper := func(s keys.Sealer) *keys.Keeper {
			k, err := keys.NewKeeper(store, s, keys.DefaultPolicy(), keys.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		running := keeper(sealer(a, b))
		if err := running.Tick(ctx); err != nil {
			t.Fatal(err)
		}
		ring, err := store.Load(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Reseal(ctx, sealer(b), ring); !errors.Is(err, keys.ErrSealed) {
			t.Fatalf("without the old key: error %v, want ErrSealed", err)
		}
		resealed, err := keys.Reseal(ctx, sealer(b, a), ring)
		if err != nil || len(resealed) != len(ring.Keys) {
			t.Fatalf("%d of %d, %v", len(resealed), len(ring.Keys), err)
		}
		// One is erased meanwhile, and stays so.
		gone := ring.Keys[0].ID
		if err := running.Revoke(ctx, gone, "meanwhile"); err != nil {
			t.Fatal(err)
		}
		change := func() keys.Changed {
			c, err := keys.Change(ctx, store, time.Now, "ana@host", func(now time.Time, ring keys.Ring) (keys.Ring, []keys.Event, error) {
				return keys.Rewrap(now, ring, resealed)
			})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		if c := change(); len(c.Events) != len(resealed)-1 || c.After.Key(gone).Sealed != nil {
			t.Errorf("events %+v", c.Events)
		}
		if c := change(); len(c.Events) != 0 {
			t.Errorf("the second time: %+v", c.Events)
		}
		if err := running.Tick(ctx); err != nil {
			t.Errorf("a keeper that runs on: %v", err)
		}
		// The key that was made after the revocation is still the old one's.
		if ring, err = store.Load(ctx); err == nil {
			if resealed, err = keys.Reseal(ctx, sealer(b, a), ring); err == nil && len(resealed) > 0 {
				change()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := keeper(sealer(b)).Tick(ctx); err != nil {
			t.Errorf("with the new sealing key alone: %v", err)
		}
		if err := keeper(sealer(a)).Tick(ctx); !errors.Is(err, keys.ErrSealed) {
			t.Errorf("with the old one alone: error %v, want ErrSealed", err)
		}
		entries, err := store.Audit(ctx, 100)
		if err != nil {
			t.Fatal(err)
		}
		var rewrapped int
		for _, e := range entries {
			if e.Action == "key.rewrapped" && e.Actor == "ana@host" && strings.Contains(e.After, b.ID()) {
				rewrapped++
			}
		}
		if rewrapped < len(ring.Keys)-2 {
			t.Errorf("the audit has %d rewrapped keys:\n%+v", rewrapped, entries)
		}
	})
}

func TestPassphraseSealer(t *testing.T) {
	ctx := t.Context()
	sealer := func(newest string, older ...string) keys.Sealer {
		s, err := keys.NewPassphraseSealer(newest, older...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const first, second = "the first passphrase", "another passphrase"
	a := sealer(first)
	id := a.ID()
	box, err := a.Seal(ctx, []byte("private"), []byte("me"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(id, "argon2id.m65536.t3.p4.") || strings.Contains(id, first) {
		t.Errorf("id %s", id)
	}
	for _, tc := range []struct {
		name, id, identity string
		sealer             keys.Sealer
		want               error
	}{
		{"the same passphrase", id, "me", sealer(first), nil},
		{"an older one of two", id, "me", sealer(second, first), nil},
		{"another passphrase", id, "me", sealer(second), keys.ErrSealed},
		{"another identity", id, "you", sealer(first), keys.ErrSealed},
		{"the id of a sealing key", strings.Repeat("0", 16), "me", sealer(first), keys.ErrSealed},
		{"parameters that would take the machine down", strings.Replace(id, "m65536", "m9999999", 1), "me", sealer(first), keys.ErrSealed},
		{"weaker parameters", strings.Replace(id, "m65536", "m8", 1), "me", sealer(first), keys.ErrSealed},
		{"joined behind a sealing key", id, "me", keys.JoinSealers(sealerOf(t), sealer(second), sealer(first)), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plain, err := tc.sealer.Open(ctx, tc.id, box, []byte(tc.identity))
			if !errors.Is(err, tc.want) || err == nil && string(plain) != "private" {
				t.Fatalf("%q, error %v, want %v", plain, err, tc.want)
			}
		})
	}
	// A replica that has opened what another sealed seals with its salt.
	b := sealer(first)
	if _, err := b.Open(ctx, id, box, []byte("me")); err != nil || b.ID() != id {
		t.Errorf("it seals with %s, want %s; %v", b.ID(), id, err)
	}
	if c := sealer(second, first); func() bool { _, err := c.Open(ctx, id, box, []byte("me")); return err != nil || c.ID() == id }() {
		t.Error("an older passphrase seals")
	}
	if _, err := keys.NewPassphraseSealer("short"); !errors.Is(err, keys.ErrSealingKey) {
		t.Errorf("a short passphrase: error %v, want ErrSealingKey", err)
	}
}

// The audit tells of every change, also of one that was made by hand.
func TestVerifyHistory(t *testing.T) {
	eachEngine(t, func(t *testing.T, open func(testing.TB) *sqlx.DB) {
		ctx, db := t.Context(), open(t)
		store := keys.NewSQLStore(db)
		keeper, err := keys.NewKeeper(store, sealerOf(t), keys.DefaultPolicy(), keys.Options{Name: "replica"})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the first keys, and the stand-bys
			if err := keeper.Tick(ctx); err != nil {
				t.Fatal(err)
			}
		}
		v, err := store.VerifyHistory(ctx, nil)
		if err != nil || len(v.Gaps) != 0 || v.Version == 0 {
			t.Fatalf("%+v, %v", v, err)
		}
		entries, err := store.Audit(ctx, 100)
		if err != nil || len(entries) == 0 || entries[0].Actor != "replica" || keys.RingOf(entries[0]) != v.Version {
			t.Fatalf("%+v, %v", entries, err)
		}
		for _, e := range entries {
			for _, secret := range []string{"sealed\"", "private", "public"} {
				if strings.Contains(e.Before+e.After, secret) {
					t.Errorf("an entry has %q: %s", secret, e.After)
				}
			}
		}
		// Who asked is written down, not the keeper that did it.
		ring := keeper.Ring()
		stolen, next := ring.Signing(jose.EdDSA).ID, ring.Standby(jose.EdDSA).ID
		if err := keeper.Revoke(keys.WithActor(ctx, "user 7"), stolen, "stolen"); err != nil {
			t.Fatal(err)
		}
		if entries, err = store.Audit(ctx, 10); err != nil {
			t.Fatal(err)
		}
		by := map[string]string{}
		for _, e := range entries {
			if keys.RingOf(e) == keeper.Ring().Version {
				by[e.Subject+" "+e.Action] = e.Actor
			}
		}
		if by[stolen+" key.revoked"] != "user 7" || by[next+" key.signing"] != "user 7" {
			t.Errorf("%v", by)
		}
		if v, err = store.VerifyHistory(ctx, nil); err != nil || len(v.Gaps) != 0 {
			t.Fatalf("%+v, %v", v, err)
		}
		if _, err := db.Exec(`UPDATE signing_ring SET version = version + 2`); err != nil {
			t.Fatal(err)
		}
		noted := v.Head
		if v, err = store.VerifyHistory(ctx, &noted); err != nil || len(v.Gaps) != 1 || v.Gaps[0].To != v.Version {
			t.Errorf("%+v, %v", v, err)
		}
		off := `DROP TRIGGER audit_no_update;`
		if db.DriverName() == "postgres" {
			off = `DROP TRIGGER audit_append_only ON audit_entries;`
		}
		if _, err := db.Exec(off + `UPDATE audit_entries SET actor = 'nobody' WHERE seq = 1`); err != nil {
			t.Fatal(err)
		}
		if _, err := store.VerifyHistory(ctx, nil); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("error %v, want ErrBroken", err)
		}
	})
}

// vault stands for a KMS: it keeps the sealing key to itself, and is asked
// over the network.
type vault struct{ inside keys.Sealer }

func (v vault) ID() string { return "kms:eu-west-1/urbandata" }

func (v vault) Seal(ctx context.Context, plaintext, identity []byte) ([]byte, error) {
	return v.inside.Seal(ctx, plaintext, identity) // kms.Encrypt, with identity as its encryption context
}

func (v vault) Open(ctx context.Context, id string, box, identity []byte) ([]byte, error) {
	if id != v.ID() {
		return nil, fmt.Errorf("%w: %s is not a key of this KMS", keys.ErrSealed, id)
	}
	return v.inside.Open(ctx, v.inside.ID(), box, identity) // kms.Decrypt
}

// A KMS is a Sealer of three methods. JoinSealers lets it take the place of a
// sealing key: it seals from now on, and what the sealing key has sealed is
// opened until Rewrap has moved it.
func ExampleSealer() {
	ctx := context.Background()
	file, _ := keys.NewSealer(keys.GenerateSealingKey())
	inside, _ := keys.NewSealer(keys.GenerateSealingKey())
	box, _ := file.Seal(ctx, []byte("an old private half"), []byte("kid"))

	sealer := keys.JoinSealers(vault{inside}, file)
	old, err := sealer.Open(ctx, file.ID(), box, []byte("kid"))
	fmt.Println(string(old), err)

	box, _ = sealer.Seal(ctx, old, []byte("kid"))
	moved, err := vault{inside}.Open(ctx, sealer.ID(), box, []byte("kid"))
	fmt.Println(sealer.ID(), string(moved), err)
	// Output:
	// an old private half <nil>
	// kms:eu-west-1/urbandata an old private half <nil>
}
