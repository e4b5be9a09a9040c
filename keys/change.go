package keys

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Edit is a change of the ring that someone asks for: [Rotate], [Revoke],
// [Import] and [Rewrap] with their arguments. It is pure, and made anew on the
// ring of each attempt. No events means that nothing is to be stored.
type Edit func(now time.Time, ring Ring) (Ring, []Event, error)

// Changed is what a [Change] has done, or would do.
type Changed struct {
	Before, After Ring
	Events        []Event // none when there was nothing to do
}

// Change makes an edit on the stored ring by the same compare-and-swap as a
// [Keeper] does, for someone who has no keeper: an operator at a shell. It
// opens no private half and makes no key, so it needs neither sealing key nor
// policy. Running keepers see the new ring and do what follows from it, within
// a second on PostgreSQL and within a tick elsewhere; without any, the next
// one to start does.
//
// The moment is taken from the store's clock where it has one: it is the one
// that all replicas are held against.
func Change(ctx context.Context, store Store, now func() time.Time, actor string, edit Edit) (Changed, error) {
	for range maxAttempts {
		c, err := Preview(ctx, store, now, edit)
		if err != nil || len(c.Events) == 0 {
			return c, err
		}
		for i := range c.Events {
			c.Events[i].Actor = actor
		}
		c.After.Version = c.Before.Version + 1
		err = store.Swap(ctx, c.Before.Version, c.After, c.Events)
		if errors.Is(err, ErrConflict) {
			continue
		}
		return c, err
	}
	return Changed{}, fmt.Errorf("keys: lost %d swaps in a row: %w", maxAttempts, ErrConflict)
}

// Preview is what Change would do at this moment; it stores nothing.
func Preview(ctx context.Context, store Store, now func() time.Time, edit Edit) (Changed, error) {
	ring, at, err := LoadNow(ctx, store, now)
	if err != nil {
		return Changed{}, err
	}
	next, events, err := edit(at, ring)
	return Changed{Before: ring, After: next, Events: events}, err
}

// LoadNow is the stored ring and the moment that goes with it: the store's
// where it has a clock of its own, else now's.
func LoadNow(ctx context.Context, store Store, now func() time.Time) (Ring, time.Time, error) {
	clocked, ok := store.(Clocked)
	if !ok {
		ring, err := store.Load(ctx)
		return ring, now(), err
	}
	ring, at, err := clocked.LoadAt(ctx)
	if at.IsZero() {
		at = now()
	}
	return ring, at, err
}
