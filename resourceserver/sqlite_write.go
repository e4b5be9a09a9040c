package resourceserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/jmoiron/sqlx"
)

// begin starts a transaction that may write: it has the database's one write
// lock from here on, so what it reads stays as it is until it ends.
func (s *SQLite) begin(ctx context.Context, f func(tx *sqlx.Tx) error) error {
	tx, err := s.write.BeginTxx(ctx, nil)
	if err != nil {
		return sqliteError(ctx, "begin", err)
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback() // the connection is dropped if even that fails
		return err
	}
	defer s.noteChange()
	return sqliteError(ctx, "commit", tx.Commit())
}

// Update reads, changes and writes in one transaction.
func (s *SQLite) Update(ctx context.Context, id string, by By, change func(Inmueble) (Inmueble, error)) (Inmueble, error) {
	return s.change(ctx, id, by, func(current *Inmueble, readable bool) (*Inmueble, error) {
		if !readable {
			return nil, ErrUnreadable
		}
		next, err := change(*current)
		return &next, err
	})
}

// change puts what next returns in the place of what is stored, or removes it
// for nil.
func (s *SQLite) change(ctx context.Context, id string, by By, next func(current *Inmueble, readable bool) (*Inmueble, error)) (stored Inmueble, err error) {
	err = s.begin(ctx, func(tx *sqlx.Tx) error {
		rows, err := tx.StmtxContext(ctx, s.current).QueryxContext(ctx, id) //nolint:sqlclosecheck // scanKnown does
		if err != nil {
			return sqliteError(ctx, "read", err)
		}
		k, err := scanKnown(ctx, rows)
		current, found := k[id]
		switch {
		case err != nil:
			return err
		case !found:
			return ErrNotFound
		case !by.mayChange(current.m.Owner):
			return ErrNotOwner
		case !by.match.holds(&current.m, current.readable):
			return ErrChanged
		}
		m, err := next(&current.m, current.readable)
		if err != nil {
			return err
		}
		if m == nil {
			_, err := tx.StmtxContext(ctx, s.remove).ExecContext(ctx, id, true, "")
			return sqliteError(ctx, "delete", err)
		}
		var same bool
		if stored, same = settle(&current.m, current.readable, *m); same {
			return nil
		}
		return s.put(ctx, tx, &stored)
	})
	return stored, err
}

// put writes over a row that exists.
func (s *SQLite) put(ctx context.Context, tx *sqlx.Tx, m *Inmueble) error {
	_, err := tx.StmtxContext(ctx, s.overwrite).ExecContext(ctx, m.ID, milli(m.UpdatedAt), string(m.appendStored(nil)))
	return sqliteError(ctx, "write", err)
}

// scanKnown reads rows of sqliteColumns, and closes them. Of an unreadable
// row the owner and the times are known.
func scanKnown(ctx context.Context, rows *sqlx.Rows) (map[string]*known, error) {
	defer func() { _ = rows.Close() }() // an error of reading is rows.Err's
	have := map[string]*known{}
	for rows.Next() {
		k := &known{exists: true, stored: true, readable: true}
		var id, owner string
		var created, updated sql.NullInt64
		var document sql.RawBytes // valid until the next row
		if err := rows.Scan(&id, &owner, &created, &updated, &document); err != nil {
			return nil, sqliteError(ctx, "read", err)
		}
		if err := k.m.parseStored(id, document); err != nil {
			k.m, k.readable = Inmueble{ID: id}, false
		}
		k.m.Owner, k.m.CreatedAt, k.m.UpdatedAt = owner, fromMilli(created), fromMilli(updated)
		have[id] = k
	}
	return have, sqliteError(ctx, "read", rows.Err())
}

// Load is one transaction. Other writers wait until it ends.
func (s *SQLite) Load(ctx context.Context, b Batch) (l Loaded, err error) {
	err = s.begin(ctx, func(tx *sqlx.Tx) error {
		if err := s.first(ctx, tx, b.Once); err != nil {
			return err
		}
		insert, known := tx.StmtxContext(ctx, s.add), tx.StmtxContext(ctx, s.known)
		err := b.load(func(rows []Row, first int) error {
			if b.plain() {
				return s.insertAll(ctx, insert, &b, rows, first, &l)
			}
			ids := make([]string, len(rows))
			for i := range rows {
				ids[i] = rows[i].ID
			}
			list, err := json.Marshal(ids)
			if err != nil { // they are valid text
				return err
			}
			found, err := known.QueryxContext(ctx, string(list))
			if err != nil {
				return sqliteError(ctx, "read", err)
			}
			have, err := scanKnown(ctx, found)
			if err != nil {
				return err
			}
			if err := b.decide(rows, first, have, &l); err != nil {
				return err
			}
			for _, k := range have {
				switch {
				case !k.changed:
				case k.stored:
					err = s.put(ctx, tx, &k.m)
				default:
					err = s.insertWith(ctx, insert, &k.m)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if b.DryRun {
			return errDryRun
		}
		if err := s.step(ctx, tx, &b, l); err != nil {
			return err
		}
		return s.last(ctx, tx, b.Once)
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return Loaded{}, err
	}
	return l, nil
}

// insertAll leaves it to the key's index to find duplicates.
func (s *SQLite) insertAll(ctx context.Context, insert *sqlx.Stmt, b *Batch, rows []Row, first int, l *Loaded) error {
	for i := range rows {
		r := &rows[i]
		if bad := r.given.missing(1); bad != nil {
			return &BatchError{ID: r.ID, Ordinal: first + i, Err: bad}
		}
		switch err := s.insertWith(ctx, insert, &r.Inmueble); {
		case errors.Is(err, ErrDuplicate):
			return &BatchError{ID: r.ID, Ordinal: first + i, Err: ErrDuplicate}
		case err != nil:
			return err
		}
		l[Inserted]++
		if b.Stored != nil {
			b.Stored(r.Inmueble, Inserted)
		}
	}
	return nil
}

// first looks whether a load that must happen once has happened.
func (s *SQLite) first(ctx context.Context, tx *sqlx.Tx, once *Once) error {
	if once == nil {
		return nil
	}
	now := once.Now.UnixMilli()
	if _, err := tx.StmtxContext(ctx, s.sweepOnce).ExecContext(ctx, now); err != nil {
		return sqliteError(ctx, "remove old answers", err)
	}
	var fingerprint string
	var answer []byte
	err := tx.StmtxContext(ctx, s.once).QueryRowxContext( //nolint:sqlclosecheck // the transaction's end does
		ctx, once.Key, now).Scan(&fingerprint, &answer)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return sqliteError(ctx, "look for an answer", err)
	case fingerprint != once.Print:
		return ErrOtherRequest
	}
	return &RepeatError{answer}
}

// last keeps the answer.
func (s *SQLite) last(ctx context.Context, tx *sqlx.Tx, once *Once) error {
	if once == nil {
		return nil
	}
	_, err := tx.StmtxContext(ctx, s.keepOnce).ExecContext(ctx, once.Key, once.Print, once.Answer(), once.Now.Add(once.Keep).UnixMilli())
	return sqliteError(ctx, "keep the answer", err)
}

func (s *SQLite) insertWith(ctx context.Context, stmt *sqlx.Stmt, m *Inmueble) error {
	_, err := stmt.ExecContext(ctx, m.ID, m.Owner, milli(m.CreatedAt), milli(m.UpdatedAt), string(m.appendStored(nil)))
	if isTaken(err) {
		return fmt.Errorf("%w: %q", ErrDuplicate, m.ID)
	}
	return sqliteError(ctx, "insert", err)
}
