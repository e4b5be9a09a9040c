package keys

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/pkg/audit"
)

// AuditLog is the name of the ring's log in package audit: one entry for each
// key that a swap has changed, written by the swap itself. The entry's
// Subject is the kid, its Action "key." and what became of the key, Before and
// After a [KeyRecord] each.
const AuditLog = "keys"

// The actions that are not the name of a state.
const (
	actionForgotten = "forgotten"
	actionScheduled = "scheduled" // its state stayed, its plan changed
	actionRewrapped = "rewrapped" // sealed by another sealing key
)

// KeyRecord is a key as the audit keeps it: all but the halves.
type KeyRecord struct {
	Ring        int64     `json:"ring"` // version of the ring that it was part of
	KeyID       string    `json:"kid"`
	Alg         string    `json:"alg"`
	State       State     `json:"state"`
	SealedBy    string    `json:"sealed_by,omitempty"`
	Imported    bool      `json:"imported,omitempty"`
	AnnouncedAt time.Time `json:"announced_at"`
	ReadyAt     time.Time `json:"ready_at"`
	ActivateAt  time.Time `json:"activate_at"`
	RetireAt    time.Time `json:"retire_at"`
	UnpublishAt time.Time `json:"unpublish_at"`
	RevokedAt   time.Time `json:"revoked_at,omitzero"`
	Reason      string    `json:"reason,omitempty"`
}

func record(ring int64, k *Key) KeyRecord {
	return KeyRecord{
		Ring: ring, KeyID: k.ID, Alg: string(k.Alg), State: k.State, SealedBy: k.Sealed.By(), Imported: k.Imported,
		AnnouncedAt: k.AnnouncedAt.UTC(), ReadyAt: k.ReadyAt.UTC(), ActivateAt: k.ActivateAt.UTC(), RetireAt: k.RetireAt.UTC(),
		UnpublishAt: k.UnpublishAt.UTC(), RevokedAt: k.RevokedAt.UTC(), Reason: k.Reason,
	}
}

// auditEntries compares the rows of a ring with the next one: nothing changes
// without an entry, whether it has an event or not.
func auditEntries(rows []keyRow, version int64, next Ring, events []Event) ([]audit.Entry, error) {
	before := make(map[string]*KeyRecord)
	var order []string
	for i := range rows {
		r := &rows[i]
		if !r.ID.Valid {
			continue
		}
		k := Key{
			ID: r.ID.V, Alg: jose.SignatureAlgorithm(r.Alg.V), State: State(r.State.V), Sealed: r.Sealed, Imported: r.Imported.V,
			AnnouncedAt: fromMillis(r.AnnouncedAt.V), ReadyAt: fromMillis(r.ReadyAt.V), ActivateAt: fromMillis(r.ActivateAt.V),
			RetireAt: fromMillis(r.RetireAt.V), UnpublishAt: fromMillis(r.UnpublishAt.V), Reason: r.Reason.V,
		}
		if r.RevokedAt.Valid {
			k.RevokedAt = fromMillis(r.RevokedAt.V)
		}
		was := record(version-1, &k)
		before[k.ID] = &was
		order = append(order, k.ID)
	}
	after := make(map[string]*KeyRecord)
	for i := range next.Keys {
		is := record(version, &next.Keys[i])
		after[is.KeyID] = &is
		if before[is.KeyID] == nil {
			order = append(order, is.KeyID)
		}
	}
	// In the order of the events, and what has none comes last.
	place := func(kid string) int {
		if i := slices.IndexFunc(events, func(e Event) bool { return e.KeyID == kid }); i >= 0 {
			return i
		}
		return len(events)
	}
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(place(a), place(b)) })

	var entries []audit.Entry
	for _, kid := range order {
		action := changed(before[kid], after[kid])
		if action == "" {
			continue
		}
		e := audit.Entry{Action: "key." + action, Subject: kid}
		var why []string
		if len(events) > 0 { // what has no event follows from the first
			e.At, e.Actor = events[0].At, events[0].Actor
		}
		if i := place(kid); i < len(events) {
			e.At, e.Actor = events[i].At, events[i].Actor
		}
		for _, event := range events {
			if event.KeyID == kid && event.Reason != "" {
				why = append(why, event.Reason)
			}
		}
		if len(why) == 0 && len(events) > 0 {
			why = []string{"follows from what happens to " + events[0].KeyID}
		}
		e.Reason = strings.Join(why, "; ")
		var err error
		if e.Before, err = marshalRecord(before[kid]); err == nil {
			e.After, err = marshalRecord(after[kid])
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// changed names what became of a key; "" when nothing did.
func changed(before, after *KeyRecord) string {
	switch {
	case after == nil:
		return actionForgotten
	case before == nil || before.State != after.State:
		return string(after.State)
	}
	a, b := *before, *after
	a.Ring, b.Ring = 0, 0
	switch {
	case a == b:
		return ""
	case a.SealedBy != b.SealedBy:
		return actionRewrapped
	}
	return actionScheduled
}

func marshalRecord(r *KeyRecord) (string, error) {
	if r == nil {
		return "", nil
	}
	text, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("keys: record %s: %w", r.KeyID, err)
	}
	return string(text), nil
}

// RingOf is the version of the ring that an entry of the AuditLog led to; 0
// when the entry doesn't say.
func RingOf(e audit.Entry) int64 {
	var r KeyRecord
	switch {
	case e.After != "" && json.Unmarshal([]byte(e.After), &r) == nil:
		return r.Ring
	case e.Before != "" && json.Unmarshal([]byte(e.Before), &r) == nil:
		return r.Ring + 1
	}
	return 0
}

// Verified is what VerifyHistory has found.
type Verified struct {
	Head    audit.Head // note it somewhere else, and give it to the next VerifyHistory
	Version int64      // of the ring that is stored

	// Gaps are changes of the ring that have no entry: by a replica of a
	// release before the audit, by hand, or because the end of the log was
	// cut off.
	Gaps []Gap
}

// Gap is a run of ring versions without an entry.
type Gap struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// VerifyHistory verifies the audit of the ring from its first entry on, and
// that it goes up to the ring that is stored. known is a head that was noted
// earlier, or nil. The error wraps [audit.ErrBroken].
func (s *SQLStore) VerifyHistory(ctx context.Context, known *audit.Head) (Verified, error) {
	// The ring first: a swap meanwhile adds an entry, and takes none away.
	ring, err := s.Load(ctx)
	if err != nil {
		return Verified{}, err
	}
	v := Verified{Version: ring.Version}
	var last int64
	v.Head, err = s.audit.Verify(ctx, known, func(e audit.Entry) error {
		version := RingOf(e)
		if version > last+1 {
			v.Gaps = append(v.Gaps, Gap{last + 1, version - 1})
		}
		last = version // lower than before when the ring was begun anew
		return nil
	})
	if err == nil && last < ring.Version {
		v.Gaps = append(v.Gaps, Gap{last + 1, ring.Version})
	}
	return v, err
}

// Audit returns the newest entries of the ring's audit, at most limit, the
// newest first.
func (s *SQLStore) Audit(ctx context.Context, limit int) ([]audit.Entry, error) {
	return s.audit.Newest(ctx, limit)
}
