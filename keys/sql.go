package keys

import (
	"context"
	"crypto"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/pkg/audit"
)

// SQLStore is a [Store] on PostgreSQL or SQLite, on the tables signing_ring,
// signing_keys and signing_key_events. One set of statements serves both.
//
// The row of signing_ring is the lock: Swap updates it first, so that a second
// swap waits there and then finds another version.
type SQLStore struct {
	db    *sqlx.DB
	audit *audit.Log

	load, advance, insert, record, history string
	note, prune, sightings                 string

	notify string // tells other replicas of a swap; "" where they can only look
}

// NewSQLStore returns the store on a migrated database. db must be the pool
// that writes.
func NewSQLStore(db *sqlx.DB) *SQLStore {
	// The time by the store's clock, in whole Unix milliseconds that have
	// passed. SQLite's is the machine's.
	clock, notify := "NULL", ""
	if db.DriverName() == "postgres" {
		clock = "CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) AS BIGINT)"
		notify = `SELECT pg_notify('` + channel + `', $1)`
	}
	return &SQLStore{
		db: db, notify: notify, audit: audit.NewLog(db, AuditLog),
		// The join gives version and keys in one statement, hence of one
		// moment on either engine. A ring without keys is one row of NULLs.
		// There is one ring, and the condition says so to the planner of
		// PostgreSQL: without statistics it takes a table to have thousands
		// of rows, and compiles a join of that size before it runs it (JIT,
		// 15 to 70 ms).
		load: `SELECT ` + clock + ` AS clock, r.version, k.kid, k.alg, k.state, k.public_key, k.sealed,
				k.announced_at, k.ready_at, k.activate_at, k.retire_at, k.unpublish_at, k.revoked_at, k.reason, k.imported
			FROM signing_ring r LEFT JOIN signing_keys k ON k.kid IS NOT NULL
			WHERE r.id = 1
			ORDER BY k.announced_at, k.kid`,
		advance: db.Rebind(`UPDATE signing_ring SET version = version + 1 WHERE id = 1 AND version = ?`),
		insert: db.Rebind(`INSERT INTO signing_keys (kid, alg, state, public_key, sealed,
				announced_at, ready_at, activate_at, retire_at, unpublish_at, revoked_at, reason, imported)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`),
		record: db.Rebind(`INSERT INTO signing_key_events
				(version, seq, at, kid, alg, from_state, to_state, actor, reason)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`),
		history: db.Rebind(`SELECT version, at, kid, alg, from_state, to_state, actor, reason
			FROM signing_key_events ORDER BY version DESC, seq DESC LIMIT ?`),
		note: db.Rebind(`INSERT INTO verifier_sightings (verifier, etag, kids, seen_at) VALUES (?, ?, ?, ?)
			ON CONFLICT (verifier) DO UPDATE SET etag = excluded.etag, kids = excluded.kids, seen_at = excluded.seen_at
			WHERE verifier_sightings.seen_at <= excluded.seen_at`),
		prune: db.Rebind(`DELETE FROM verifier_sightings WHERE seen_at < ? OR verifier NOT IN
			(SELECT verifier FROM verifier_sightings ORDER BY seen_at DESC, verifier LIMIT ?)`),
		sightings: `SELECT verifier, etag, kids, seen_at FROM verifier_sightings ORDER BY verifier`,
	}
}

// serializationFailure is the SQLSTATE for a transaction that another one has
// overtaken (PostgreSQL, appendix A).
const serializationFailure = "40001"

// keyRow is a row of the load statement.
type keyRow struct {
	Clock       sql.Null[int64]  `db:"clock"` // NULL where the store has none of its own
	Version     int64            `db:"version"`
	ID          sql.Null[string] `db:"kid"` // NULL when the ring has no key
	Alg         sql.Null[string] `db:"alg"`
	State       sql.Null[string] `db:"state"`
	Public      []byte           `db:"public_key"` // SubjectPublicKeyInfo, DER
	Sealed      []byte           `db:"sealed"`
	AnnouncedAt sql.Null[int64]  `db:"announced_at"` // times are Unix milliseconds
	ReadyAt     sql.Null[int64]  `db:"ready_at"`
	ActivateAt  sql.Null[int64]  `db:"activate_at"`
	RetireAt    sql.Null[int64]  `db:"retire_at"`
	UnpublishAt sql.Null[int64]  `db:"unpublish_at"`
	RevokedAt   sql.Null[int64]  `db:"revoked_at"` // NULL unless revoked
	Reason      sql.Null[string] `db:"reason"`
	Imported    sql.Null[bool]   `db:"imported"`
}

// Load implements [Store] with one query.
func (s *SQLStore) Load(ctx context.Context) (Ring, error) {
	ring, _, err := s.LoadAt(ctx)
	return ring, err
}

// LoadAt implements [Clocked] with the same query.
func (s *SQLStore) LoadAt(ctx context.Context) (Ring, time.Time, error) {
	var rows []keyRow
	if err := s.db.SelectContext(ctx, &rows, s.load); err != nil {
		return Ring{}, time.Time{}, fmt.Errorf("keys: load the ring: %w", err)
	}
	ring, err := decodeRing(rows)
	if err != nil || !rows[0].Clock.Valid {
		return ring, time.Time{}, err
	}
	return ring, fromMillis(rows[0].Clock.V), nil
}

// decodeRing makes the ring of the rows that Load found.
func decodeRing(rows []keyRow) (Ring, error) {
	if len(rows) == 0 {
		return Ring{}, fmt.Errorf("%w: the row of signing_ring is missing", ErrDamaged)
	}
	ring := Ring{Version: rows[0].Version}
	for i := range rows {
		if !rows[i].ID.Valid && len(rows) == 1 {
			break
		}
		k, err := rows[i].key()
		if err != nil {
			return Ring{}, err
		}
		if ring.Key(k.ID) != nil {
			return Ring{}, fmt.Errorf("%w: %s is there twice", ErrDamaged, k.ID)
		}
		if k.State == Signing && ring.Signing(k.Alg) != nil {
			return Ring{}, fmt.Errorf("%w: two keys sign for %s", ErrDamaged, k.Alg)
		}
		ring.Keys = append(ring.Keys, k)
	}
	// A ring in use is never without keys. An empty one has lost them, and a
	// new one beside it would break every token that is out.
	if ring.Version != 0 && len(ring.Keys) == 0 || ring.Version < 0 {
		return Ring{}, fmt.Errorf("%w: version %d has no keys", ErrDamaged, ring.Version)
	}
	if ring.Version == 0 && len(ring.Keys) != 0 {
		return Ring{}, fmt.Errorf("%w: it has keys, and the version of an unused ring", ErrDamaged)
	}
	ring.sort()
	return ring, nil
}

// key decodes a row. It trusts nothing: a damaged row must stop the keeper
// and not reach the JWKS.
func (r *keyRow) key() (Key, error) {
	k := Key{
		ID:          r.ID.V,
		Alg:         jose.SignatureAlgorithm(r.Alg.V),
		State:       State(r.State.V),
		AnnouncedAt: fromMillis(r.AnnouncedAt.V),
		ReadyAt:     fromMillis(r.ReadyAt.V),
		ActivateAt:  fromMillis(r.ActivateAt.V),
		RetireAt:    fromMillis(r.RetireAt.V),
		UnpublishAt: fromMillis(r.UnpublishAt.V),
		Reason:      r.Reason.V,
		Imported:    r.Imported.V,
	}
	damaged := func(what string) (Key, error) {
		return Key{}, fmt.Errorf("%w: key %.64q: %s", ErrDamaged, r.ID.V, what)
	}
	if len(r.Sealed) > 0 {
		k.Sealed = r.Sealed
	}
	alg, known := algorithms[k.Alg]
	if !known {
		return damaged("its algorithm is unknown")
	}
	if rank[k.State] == 0 {
		return damaged("its state is unknown")
	}
	public, err := x509.ParsePKIXPublicKey(r.Public)
	if err != nil || !alg.fits(public) {
		return damaged("its public half can't be read, or is of another algorithm")
	}
	if kid, err := thumbprint(public); err != nil || kid != k.ID && !(k.Imported && ValidKeyID(k.ID)) {
		return damaged("its id is not the thumbprint of its public half")
	}
	k.Public = public
	if (k.State == Announced || k.State == Signing) != (k.Sealed != nil) {
		return damaged("its private half doesn't fit its state " + string(k.State))
	}
	if (k.State == Revoked) != r.RevokedAt.Valid {
		return damaged("its revocation doesn't fit its state " + string(k.State))
	}
	if r.RevokedAt.Valid {
		k.RevokedAt = fromMillis(r.RevokedAt.V)
	}
	return k, nil
}

// Swap implements [Store].
func (s *SQLStore) Swap(ctx context.Context, old int64, next Ring, events []Event) (err error) {
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return fmt.Errorf("keys: swap the ring: %w", err)
	}
	defer func() {
		_ = tx.Rollback() // after a commit it does nothing
		// Under a stricter isolation level this is how another replica's swap
		// shows.
		var state interface{ SQLState() string }
		if errors.As(err, &state) && state.SQLState() == serializationFailure {
			err = fmt.Errorf("%w: %w", ErrConflict, err)
		}
	}()

	result, err := tx.ExecContext(ctx, s.advance, old)
	if err != nil {
		return fmt.Errorf("keys: swap the ring: %w", err)
	}
	if n, err := result.RowsAffected(); err != nil {
		return fmt.Errorf("keys: swap the ring: %w", err)
	} else if n == 0 {
		return ErrConflict
	}
	// What the ring was, for the audit. The row of signing_ring is locked, so
	// nobody changes it now.
	var rows []keyRow
	if err := tx.SelectContext(ctx, &rows, s.load); err != nil {
		return fmt.Errorf("keys: swap the ring: %w", err)
	}
	// All rows anew rather than one by one: the index that allows one signing
	// key for each algorithm then never sees the middle of a hand-over.
	if _, err := tx.ExecContext(ctx, `DELETE FROM signing_keys`); err != nil {
		return fmt.Errorf("keys: swap the ring: %w", err)
	}
	for i := range next.Keys {
		if err := s.insertKey(ctx, tx, &next.Keys[i]); err != nil {
			return err
		}
	}
	for i, e := range events {
		if _, err := tx.ExecContext(ctx, s.record, old+1, i, e.At.UnixMilli(), e.KeyID, string(e.Alg),
			string(e.From), string(e.To), e.Actor, e.Reason); err != nil {
			return fmt.Errorf("keys: record what happened to %s: %w", e.KeyID, err)
		}
	}
	entries, err := auditEntries(rows, old+1, next, events)
	if err == nil {
		err = s.audit.Append(ctx, tx, entries...)
	}
	if err != nil {
		return fmt.Errorf("keys: record the change: %w", err)
	}
	// Sent by the commit, and to nobody without it.
	if s.notify != "" {
		if _, err := tx.ExecContext(ctx, s.notify, strconv.FormatInt(old+1, 10)); err != nil {
			return fmt.Errorf("keys: tell other replicas of the ring: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("keys: swap the ring: %w", err)
	}
	return nil
}

// Note implements [Store]. Its rows are locked in the order of their names,
// so that two replicas never wait for each other.
func (s *SQLStore) Note(ctx context.Context, sightings []Sighting) error {
	if len(sightings) == 0 {
		return nil
	}
	sightings = slices.SortedFunc(slices.Values(sightings), func(a, b Sighting) int { return strings.Compare(a.Verifier, b.Verifier) })
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return fmt.Errorf("keys: note sightings: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	var newest time.Time
	for _, one := range sightings {
		newest = later(newest, one.At)
		if _, err := tx.ExecContext(ctx, s.note, one.Verifier, one.ETag, strings.Join(one.Keys, " "), one.At.UnixMilli()); err != nil {
			return fmt.Errorf("keys: note sightings: %w", err)
		}
	}
	// Keepers bound what they note; this bounds what many of them do.
	if _, err := tx.ExecContext(ctx, s.prune, newest.Add(-sightingLife).UnixMilli(), 2*MaxSightings); err != nil {
		return fmt.Errorf("keys: forget old sightings: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("keys: note sightings: %w", err)
	}
	return nil
}

// Sightings implements [Store].
func (s *SQLStore) Sightings(ctx context.Context) ([]Sighting, error) {
	var rows []struct {
		Verifier string `db:"verifier"`
		ETag     string `db:"etag"`
		Keys     string `db:"kids"`
		At       int64  `db:"seen_at"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.sightings); err != nil {
		return nil, fmt.Errorf("keys: read sightings: %w", err)
	}
	found := make([]Sighting, len(rows))
	for i, r := range rows {
		found[i] = Sighting{Verifier: r.Verifier, ETag: r.ETag, Keys: strings.Fields(r.Keys), At: fromMillis(r.At)}
	}
	// The engines sort text each in its own way.
	slices.SortFunc(found, func(a, b Sighting) int { return strings.Compare(a.Verifier, b.Verifier) })
	return found, nil
}

func (s *SQLStore) insertKey(ctx context.Context, tx *sqlx.Tx, k *Key) error {
	public, err := marshalPublic(k.Public)
	if err != nil {
		return fmt.Errorf("keys: store %s: %w", k.ID, err)
	}
	var sealed any // NULL, not an empty value, when there is no private half
	if len(k.Sealed) > 0 {
		sealed = []byte(k.Sealed)
	}
	var revokedAt sql.Null[int64]
	if k.State == Revoked {
		revokedAt = sql.Null[int64]{V: k.RevokedAt.UnixMilli(), Valid: true}
	}
	if _, err := tx.ExecContext(ctx, s.insert, k.ID, string(k.Alg), string(k.State), public, sealed,
		k.AnnouncedAt.UnixMilli(), k.ReadyAt.UnixMilli(), k.ActivateAt.UnixMilli(), k.RetireAt.UnixMilli(),
		k.UnpublishAt.UnixMilli(), revokedAt, k.Reason, k.Imported); err != nil {
		return fmt.Errorf("keys: store %s: %w", k.ID, err)
	}
	return nil
}

// History implements [Store].
func (s *SQLStore) History(ctx context.Context, limit int) ([]Event, error) {
	var rows []struct {
		Version int64  `db:"version"`
		At      int64  `db:"at"`
		KeyID   string `db:"kid"`
		Alg     string `db:"alg"`
		From    string `db:"from_state"`
		To      string `db:"to_state"`
		Actor   string `db:"actor"`
		Reason  string `db:"reason"`
	}
	if err := s.db.SelectContext(ctx, &rows, s.history, limit); err != nil {
		return nil, fmt.Errorf("keys: read the history: %w", err)
	}
	events := make([]Event, len(rows))
	for i, r := range rows {
		events[i] = Event{
			Version: r.Version, At: fromMillis(r.At), KeyID: r.KeyID, Alg: jose.SignatureAlgorithm(r.Alg),
			From: State(r.From), To: State(r.To), Actor: r.Actor, Reason: r.Reason,
		}
	}
	return events, nil
}

func marshalPublic(public crypto.PublicKey) ([]byte, error) {
	if public == nil {
		return nil, errors.New("it has no public half")
	}
	return x509.MarshalPKIXPublicKey(public)
}

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
