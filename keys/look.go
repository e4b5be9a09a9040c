package keys

import "context"

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
