// Package keys is the ring of signing keys: it makes them, publishes them
// ahead of use, signs with them, takes them out of use and erases them, in
// step with every other replica and without one valid token being refused.
//
// # Life of a key
//
//	          AnnouncedAt      ActivateAt        RetireAt        UnpublishAt
//	               │                │                │                │
//	(made) ──▶ announced ──────▶ signing ───────▶ retiring ───────▶ retired ──▶ (forgotten)
//	               │ published      │ published      │ published      │
//	               │ doesn't sign   │ signs          │ verifies       │
//	               └────────────────┴───────┬────────┴────────────────┘
//	                                        ▼
//	                                     revoked: unpublished at once, never back
//
// A key is published (it is in the JWKS) while it is announced, signing or
// retiring. There is at most one signing key for each algorithm, and, but for
// the moment after a key was made to sign, one announced key: the stand-by.
// The stand-by is made when its predecessor starts to sign, a whole rotation
// period ahead, so an emergency always finds a key that every verifier holds.
// The private half exists only while a key is announced or signing. A retired
// key is forgotten after another rotation period; a revoked one never is, so
// that it can't come back.
//
// Two inequalities keep verifiers whole, and [Policy.Validate] insists on
// both. A key is announced for longer than the slowest verifier needs to
// fetch it (AnnounceLead; [Verifiers] is the table of what stock verifiers
// need). A key stays published for longer than the last token signed with it
// can live (Retention). That they are enough is checked, state by state, in
// keys/model.
//
// A planned rotation whose moment has come may be held back by [Evidence],
// for a bounded time: while the JWKS can't be fetched, since many verifiers
// fetch when a key starts to sign, and, if the policy says so, until the
// verifiers that are registered have told that they hold the next key. What
// is urgent never waits.
//
// Each key carries its own timestamps, fixed when it is made. A timestamp is
// a plan until its moment has come and a fact from then on. Changing the
// policy therefore changes the keys to come, and can neither stall nor
// shorten one that is already out.
//
// # Who decides and who acts
//
// [Step] decides: a pure function of the time, the ring, the keys that were
// made for it, the policy and the evidence. It knows no clock, no randomness and no I/O, so
// a model checker can drive the very function that production runs.
//
// A [Keeper] acts. Its Tick loads the ring, makes the keys that [Needs] asks
// for, calls Step, and stores the outcome by compare-and-swap on the ring's
// version. Any number of replicas may tick at once: one wins, the others
// discard what they made and read what the winner stored. The outcome is
// swapped into memory as one snapshot, from which [Keeper.Signer] and
// [Keeper.JWKS] answer with a single atomic load. Replicas learn of a swap
// with their next tick, and on PostgreSQL at once through [Listen]. A replica
// whose clock is off by more than the policy allows reads the ring, changes
// nothing, and says in [Keeper.Check] that it isn't ready.
//
// What an operator asks for is an [Edit]: [Rotate], [Revoke], [Import],
// [Rewrap]. A keeper makes it before its Step; [Change] makes it without a
// keeper, and the keepers that run do what follows from it.
//
// A key that another issuer has made keeps its kid, because tokens and caches
// name it. Its public half alone is a retiring key: published, and no signer.
//
// A [Store] keeps the ring; [SQLStore] does on PostgreSQL and SQLite, and
// writes each change to the hash-chained [AuditLog] in the same transaction. A
// [Sealer] encrypts private halves before the store sees them. A keeper that
// can't open the ring it finds stops with [ErrSealed] and never makes a new
// ring beside it.
//
//	keeper, err := keys.NewKeeper(keys.NewSQLStore(db), sealer, keys.DefaultPolicy(), keys.Options{})
//	err = keeper.Tick(ctx)                     // an error stops the start
//	go keeper.Run(ctx)                         // until ctx ends
//	signer, err := keeper.Signer(jose.EdDSA)   // for each token
//	token, err := signer.Sign("at+jwt", claims)
//
// # What is trusted
//
// Reading the store gives nobody a key to sign with; that takes the sealing
// key as well. Writing to it is another matter: whoever can add a row can
// publish a key of their own, and is the issuer. Erasing a private half takes
// it out of its row, and overwrites it in memory once no request signs with it
// any more, as far as Go allows (see [Signer]); what lingers in the database's
// free pages and backups is sealed.
package keys

import (
	"cmp"
	"crypto"
	"errors"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

var (
	// ErrPolicy is wrapped by the errors of [Policy.Validate].
	ErrPolicy = errors.New("keys: unsafe policy")

	// ErrConflict is returned by [Store.Swap] when the ring was changed by
	// someone else since it was loaded.
	ErrConflict = errors.New("keys: the ring was changed by another replica")

	// ErrSealed says that a private half can't be opened: its sealing key
	// isn't among those given, or what was stored has been altered.
	ErrSealed = errors.New("keys: the ring can't be opened")

	// ErrDamaged says that what is stored is not a ring that this package
	// has written. Nothing is signed or made beside it.
	ErrDamaged = errors.New("keys: the stored ring is damaged")

	// ErrNoKey says that the ring has no key by that id, or none that can
	// do what was asked.
	ErrNoKey = errors.New("keys: no such key")

	// ErrNotReady says that no ring has been loaded yet.
	ErrNotReady = errors.New("keys: no ring has been loaded yet")

	// ErrStale says that the ring in memory is older than the policy allows
	// for signing. Verification and JWKS go on.
	ErrStale = errors.New("keys: the ring in memory is too old to sign with")

	// ErrClock says that this machine's clock is too far from the store's.
	ErrClock = errors.New("keys: the clock is wrong")

	// ErrSealingKey says that a text is not a sealing key.
	ErrSealingKey = errors.New("keys: not a sealing key")
)

// State is where a key stands in its life.
type State string

// The states, in the order in which a key goes through them.
const (
	Announced State = "announced" // published, not signing yet
	Signing   State = "signing"   // published, the one that signs for its algorithm
	Retiring  State = "retiring"  // published, verifies what it has signed
	Retired   State = "retired"   // unpublished
	Revoked   State = "revoked"   // unpublished, for ever
)

// rank orders the states; a key's rank never falls.
var rank = map[State]int{Announced: 1, Signing: 2, Retiring: 3, Retired: 4, Revoked: 5}

// Key is one signing key. Its times are UTC, in whole milliseconds.
type Key struct {
	ID     string                  // the kid: RFC 7638 SHA-256 thumbprint of Public, base64url, unless Imported
	Alg    jose.SignatureAlgorithm // EdDSA, RS256, ES256 or PS256
	Public crypto.PublicKey        // ed25519.PublicKey, *rsa.PublicKey or *ecdsa.PublicKey
	State  State
	Sealed Sealed // the private half; nil once the key has stopped signing

	AnnouncedAt time.Time // made, and published for the first time
	ReadyAt     time.Time // every verifier that the policy covers holds it from here on
	ActivateAt  time.Time // starts to sign
	RetireAt    time.Time // stops signing
	UnpublishAt time.Time // leaves the JWKS
	RevokedAt   time.Time // zero unless revoked
	Reason      string    // why it was revoked

	Imported bool // another issuer made it, and its kid may be that issuer's
}

// Published reports whether the key belongs in the JWKS.
func (k *Key) Published() bool {
	return k.State == Announced || k.State == Signing || k.State == Retiring
}

// Since is when the key entered its state.
func (k *Key) Since() time.Time {
	switch k.State {
	case Announced:
		return k.AnnouncedAt
	case Signing:
		return k.ActivateAt
	case Retiring:
		return k.RetireAt
	case Retired:
		return k.UnpublishAt
	default:
		return k.RevokedAt
	}
}

// Next is the state that the key is planned to enter and when; ok is false
// when nothing more is to come.
func (k *Key) Next() (state State, at time.Time, ok bool) {
	switch k.State {
	case Announced:
		return Signing, k.ActivateAt, true
	case Signing:
		return Retiring, k.RetireAt, true
	case Retiring:
		return Retired, k.UnpublishAt, true
	default:
		return "", time.Time{}, false
	}
}

// stopAt moves the end of signing, and the end of publication with it: the
// time between the two, which outlasts the key's tokens, never shrinks.
func (k *Key) stopAt(t time.Time) {
	retention := k.UnpublishAt.Sub(k.RetireAt)
	k.RetireAt = t
	k.UnpublishAt = t.Add(retention)
}

// Ring is every key that is known, oldest first, and the version by which
// [Store.Swap] compares. The zero Ring is the one of an empty store.
type Ring struct {
	Version int64 // counts the swaps since the store was made
	Keys    []Key
}

// Key returns the key with the id, or nil.
func (r Ring) Key(id string) *Key {
	return r.find(func(k *Key) bool { return k.ID == id })
}

// Signing returns the key that signs for an algorithm, or nil.
func (r Ring) Signing(alg jose.SignatureAlgorithm) *Key {
	return r.find(func(k *Key) bool { return k.Alg == alg && k.State == Signing })
}

// Standby returns the announced key that is next to sign for an algorithm,
// or nil.
func (r Ring) Standby(alg jose.SignatureAlgorithm) *Key {
	var next *Key
	for i := range r.Keys {
		k := &r.Keys[i]
		if k.Alg == alg && k.State == Announced && (next == nil || k.ActivateAt.Before(next.ActivateAt)) {
			next = k
		}
	}
	return next
}

// Published returns the keys that belong in the JWKS, oldest first.
func (r Ring) Published() []Key {
	var out []Key
	for i := range r.Keys {
		if r.Keys[i].Published() {
			out = append(out, r.Keys[i])
		}
	}
	return out
}

func (r Ring) find(match func(*Key) bool) *Key {
	for i := range r.Keys {
		if match(&r.Keys[i]) {
			return &r.Keys[i]
		}
	}
	return nil
}

// clone copies the ring so that changing a key of the copy leaves the
// original alone. Public keys and sealed bytes are shared; nobody writes to
// either.
func (r Ring) clone() Ring {
	return Ring{Version: r.Version, Keys: slices.Clone(r.Keys)}
}

// sort puts the keys in the one order that every replica uses, so that all of
// them render the same JWKS.
func (r Ring) sort() {
	slices.SortFunc(r.Keys, func(a, b Key) int {
		return cmp.Or(a.AnnouncedAt.Compare(b.AnnouncedAt), cmp.Compare(a.ID, b.ID))
	})
}

// Event is one change to one key, as the history keeps it. From is empty when
// the key was made, To when it was forgotten; both are the same when only its
// schedule changed.
type Event struct {
	Version int64 // of the ring that the change led to; set by the store
	At      time.Time
	KeyID   string
	Alg     jose.SignatureAlgorithm
	From    State
	To      State
	Actor   string // who asked: the keeper's name, or an operator
	Reason  string
}
