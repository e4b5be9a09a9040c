package keys

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Resealed is a private half sealed anew: what it replaces, and by what.
type Resealed struct{ Old, New Sealed }

// Reseal seals anew, with the sealing key that the sealer seals with, the
// private halves that another one has sealed, and opens each again before it
// trusts it. It stores nothing: [Rewrap] does. Empty means that there is
// nothing to do.
func Reseal(ctx context.Context, sealer Sealer, ring Ring) (map[string]Resealed, error) {
	resealed := make(map[string]Resealed)
	// All are opened before the first is sealed: a ring that can't be opened
	// is left as it is, and a sealer that takes its parameters from what it
	// opens has seen them.
	halves := make(map[string][]byte)
	defer func() {
		for der := range maps.Values(halves) {
			clear(der)
		}
	}()
	for i := range ring.Keys {
		k := &ring.Keys[i]
		if k.Sealed == nil {
			continue
		}
		private, err := openKey(ctx, sealer, k)
		if err != nil {
			return nil, err
		}
		if halves[k.ID], err = x509.MarshalPKCS8PrivateKey(private); err != nil {
			return nil, fmt.Errorf("keys: encode the private half of %s: %w", k.ID, err)
		}
	}
	for i := range ring.Keys {
		k := ring.Keys[i]
		if k.Sealed == nil || k.Sealed.By() == sealer.ID() {
			continue
		}
		old := k.Sealed
		var err error
		if k.Sealed, err = seal(ctx, sealer, k.ID, k.Alg, halves[k.ID]); err != nil {
			return nil, err
		}
		if _, err := openKey(ctx, sealer, &k); err != nil {
			return nil, fmt.Errorf("keys: what was just sealed: %w", err)
		}
		resealed[k.ID] = Resealed{old, k.Sealed}
	}
	return resealed, nil
}

// Rewrap puts private halves that [Reseal] has sealed anew in the place of the
// old ones. One that isn't what Reseal had found is left alone: it has been
// erased or sealed by someone else since. Like [Rotate] it is pure.
func Rewrap(now time.Time, ring Ring, resealed map[string]Resealed) (Ring, []Event, error) {
	s := newStep(now, ring, Policy{})
	for _, kid := range slices.Sorted(maps.Keys(resealed)) {
		k, r := s.ring.Key(kid), resealed[kid]
		if k == nil || k.Sealed == nil || !bytes.Equal(k.Sealed, r.Old) {
			continue
		}
		k.Sealed = r.New
		s.event(k, k.State, fmt.Sprintf("sealed by %s, before by %s", r.New.By(), r.Old.By()))
	}
	return s.ring, s.events, nil
}
