package keys

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrNotStandby says that a key is not the one that is next to sign.
var ErrNotStandby = errors.New("keys: the key doesn't stand by")

// History returns the newest changes of the stored ring; see [Store.History].
func (k *Keeper) History(ctx context.Context, limit int) ([]Event, error) {
	return k.store.History(ctx, limit)
}

// Sightings returns the last of each verifier, as all replicas have noted them.
func (k *Keeper) Sightings(ctx context.Context) ([]Sighting, error) {
	return k.store.Sightings(ctx)
}

type actorKey struct{}

// WithActor says who asks for the changes that a keeper makes under ctx, for
// the history. Otherwise it is the keeper itself.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// actorOf is who asks under ctx; "" when nobody has said.
func actorOf(ctx context.Context) string {
	actor, _ := ctx.Value(actorKey{}).(string)
	return actor
}

// RotateTo is Rotate to the stand-by that the caller has seen. When that one
// signs by now nothing is left to do; when it is anything else, another
// stand-by may be one that no verifier holds, and the error is
// [ErrNotStandby].
func (k *Keeper) RotateTo(ctx context.Context, kid string, emergency bool) error {
	return k.change(ctx, func(now time.Time, ring Ring) (Ring, []Event, error) {
		key := ring.Key(kid)
		switch {
		case key == nil:
			return ring, nil, fmt.Errorf("%w: %q", ErrNoKey, kid)
		case key.State == Signing:
			return ring, nil, nil
		}
		if next := ring.Standby(key.Alg); next == nil || next.ID != kid {
			return ring, nil, fmt.Errorf("%w: %s is %s", ErrNotStandby, kid, key.State)
		}
		return Rotate(now, ring, key.Alg, emergency)
	})
}
