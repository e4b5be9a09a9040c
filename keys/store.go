package keys

import (
	"context"
	"time"
)

// Store keeps the ring and the history of its changes. Replicas in other
// processes use the same store; its methods may be called concurrently.
type Store interface {
	// Load returns the ring of one moment, its keys oldest first: all of a
	// swap or none of it. A new store has the zero Ring. The error wraps
	// ErrDamaged when what is stored isn't a ring; such a store is never
	// taken for a new one.
	Load(ctx context.Context) (Ring, error)

	// Swap puts the keys of next in place of the whole ring, appends the
	// events, and counts the version up from old to old+1, if the version is
	// still old: all of it at once or nothing. Otherwise it returns
	// ErrConflict, also when it only couldn't make sure. After any other
	// error the swap may have happened: Load tells.
	//
	// Private halves that next doesn't have are gone from the store when
	// Swap returns.
	Swap(ctx context.Context, old int64, next Ring, events []Event) error

	// History returns the newest events, at most limit, the newest first.
	History(ctx context.Context, limit int) ([]Event, error)

	// Note writes sightings down, each in the place of an older one of the
	// same verifier; an older one than is stored changes nothing. It doesn't
	// touch the ring. The store stays bounded: it may forget the verifiers
	// that were not seen for the longest time.
	Note(ctx context.Context, sightings []Sighting) error

	// Sightings returns the last of each verifier, by its name.
	Sightings(ctx context.Context) ([]Sighting, error)
}

// Clocked is a [Store] whose clock isn't this machine's own.
type Clocked interface {
	// LoadAt is Load, with the time by the store's clock at some moment of
	// the call; the zero Time when the clock is this machine's.
	LoadAt(ctx context.Context) (Ring, time.Time, error)
}
