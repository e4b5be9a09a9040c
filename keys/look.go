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
