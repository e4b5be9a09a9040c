package resourceserver

import (
	"errors"
	"fmt"
	"iter"
	"time"
)

// Batch is what [Store.Load] stores: many inmuebles in one step.
//
// Rows yields them; an error that it yields ends the load and is returned as
// it is. A row that can't be stored ends it with a *[BatchError]. Rows of one
// _id follow each other as single changes would.
type Batch struct {
	Rows        iter.Seq2[Row, error]
	OnDuplicate OnDuplicate
	By          By // who asks: may an inmueble that exists be changed? Its Match is not looked at

	// Stored is told of each row, in order, what is stored for it now; the
	// load may yet fail. nil is told nothing.
	Stored func(m Inmueble, what Outcome)

	// Once makes the load happen at most one time; nil doesn't.
	Once *Once

	// Reject is told of each row that can't be stored, and the load goes on
	// without it; nil has such a row end the load.
	Reject func(*BatchError)

	// DryRun finds out all that a load would, and stores nothing.
	DryRun bool

	// Replayable says that Rows can be walked again, and Stored be told
	// again, so that the store may try anew after a conflict with another
	// writer.
	Replayable bool

	// Step is called after all rows and returns what a job has come to by them,
	// which is stored in the same step. If the job isn't as that has seen it,
	// the load ends with ErrJobChanged. nil has no job. A dry run doesn't call
	// it; a further attempt does again.
	Step func(l Loaded) (Job, error)

	large bool // a store's own: there are more rows than a transaction takes
}

// Row is one inmueble of a batch. A row that only some fields were given for
// can change an inmueble that exists, but can't make one.
type Row struct {
	Inmueble
	given seen // for MergeDuplicate
}

// allGiven is the given of a row that has every field.
const allGiven = seen(1<<len(fields) - 1)

// OnDuplicate says what becomes of a row whose _id exists.
type OnDuplicate int

// The choices. The first is the zero value.
const (
	FailDuplicate    OnDuplicate = iota // the load fails with ErrDuplicate
	SkipDuplicate                       // what is stored stays
	ReplaceDuplicate                    // the row takes its place, as by [Store.Replace]
	MergeDuplicate                      // the row's given fields do
)

// Outcome is what became of a row.
type Outcome int

// What can become of a row.
const (
	Inserted  Outcome = iota
	Changed           // the stored inmueble was replaced or merged
	Unchanged         // it already was as the row has it
	Skipped           // it stays as it is, whatever the row has
)

// Loaded counts rows by their outcome.
type Loaded [Skipped + 1]int

// Rows is how many there were.
func (l Loaded) Rows() int { return l[Inserted] + l[Changed] + l[Unchanged] + l[Skipped] }

// BatchError is why a row couldn't be stored. It wraps ErrDuplicate,
// ErrNotOwner, ErrUnreadable, or a [ValidationError] of a row that lacks what
// a new inmueble needs.
type BatchError struct {
	ID      string
	Ordinal int // of the row, from 0; less than lookBack behind the last one taken
	Err     error
}

// importBatch is how many documents a load sends to the database at once, or
// fewer, once they have loadBytes of free text.
const (
	importBatch = 1000
	loadBytes   = 2 << 20
)

// lookBack is how many rows a store may have taken and not yet judged.
const lookBack = maxTransaction + 2*importBatch

// Error names the _id.
func (e *BatchError) Error() string { return fmt.Sprintf("%v: %q", e.Err, e.ID) }

// Unwrap is the reason.
func (e *BatchError) Unwrap() error { return e.Err }

// What a load that must happen once may return besides. A *[RepeatError] is
// the good case.
var (
	// ErrOtherRequest: the key was used for something else.
	ErrOtherRequest = errors.New("resourceserver: the idempotency key was used for another request")
	// ErrInProgress: a load with this key is under way.
	ErrInProgress = errors.New("resourceserver: a request with this idempotency key is in progress")
)

// Once names a load that must not happen twice. The name and what was
// answered are stored in the same step as the rows, so that no crash can part
// them.
type Once struct {
	Key    string        // whose and which
	Print  string        // of what was asked
	Now    time.Time     // of asking
	Keep   time.Duration // how long the answer is kept
	Answer func() []byte // is called after all rows
}

// RepeatError says that the load has happened before.
type RepeatError struct{ Answer []byte }

// Error says so.
func (e *RepeatError) Error() string { return "resourceserver: the request was answered before" }

// merge is the stored inmueble with the row's given fields.
func (r *Row) merge(current Inmueble) Inmueble {
	for i := range fields[1:] {
		if i++; r.given&(1<<i) != 0 {
			fields[i].copy(&current, &r.Inmueble)
		}
	}
	current.UpdatedAt = r.UpdatedAt
	return current
}

// copy sets the field in to what it is in from.
func (f *field) copy(to, from *Inmueble) {
	switch p := f.at(to).(type) {
	case *string:
		*p, _ = deref[string](f.at(from))
	case *int32:
		*p, _ = deref[int32](f.at(from))
	case **int32:
		*p, _ = deref[*int32](f.at(from))
	case *bool:
		*p, _ = deref[bool](f.at(from))
	case *float64:
		*p, _ = deref[float64](f.at(from))
	}
}

func deref[T any](p any) (T, bool) {
	if p, ok := p.(*T); ok {
		return *p, true
	}
	var zero T
	return zero, false
}

// known is what a load knows of one _id: what is stored under it, after the
// rows so far.
type known struct {
	m        Inmueble
	exists   bool
	readable bool
	stored   bool   // in the database, before the rows that haven't been sent
	changed  bool   // by rows that haven't been sent
	raw      []byte // MongoDB: what is stored, byte for byte
}

// apply decides what a row does to what is known of its _id. It is all the
// rule that there is for duplicates; the stores read and write.
func (b *Batch) apply(k *known, r *Row) (Outcome, error) {
	if !k.exists {
		if bad := r.given.missing(1); bad != nil {
			return 0, bad
		}
		k.m, k.exists, k.readable, k.changed = r.Inmueble, true, true, true
		return Inserted, nil
	}
	switch {
	case b.OnDuplicate == FailDuplicate:
		return 0, ErrDuplicate
	case b.OnDuplicate == SkipDuplicate:
		return Skipped, nil
	case !b.By.mayChange(k.m.Owner):
		return 0, ErrNotOwner
	}
	next := r.Inmueble
	if b.OnDuplicate == MergeDuplicate {
		if !k.readable {
			return 0, ErrUnreadable
		}
		next = r.merge(k.m)
	} else if bad := r.given.missing(1); bad != nil {
		return 0, bad
	}
	stored, same := settle(&k.m, k.readable, next)
	if same {
		return Unchanged, nil
	}
	k.m, k.readable, k.changed = stored, true, true
	return Changed, nil
}

// load walks the rows of a batch in chunks. send has to store one chunk and
// count its outcomes; first is the ordinal of the chunk's first row.
func (b *Batch) load(send func(c []Row, first int) error) error {
	rows := make([]Row, 0, importBatch)
	first, size := 0, 0
	flush := func() error {
		if len(rows) == 0 {
			return nil
		}
		err := send(rows, first)
		first += len(rows)
		rows, size = rows[:0], 0
		return err
	}
	for r, err := range b.Rows {
		if err != nil {
			return err
		}
		size += len(r.Title) + len(r.Description)
		if rows = append(rows, r); len(rows) == importBatch || size >= loadBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// plain reports whether the key's index may be left to find duplicates.
func (b *Batch) plain() bool { return b.OnDuplicate == FailDuplicate && b.Reject == nil }

// decide applies a chunk's rows to what is known, which has every _id that
// the database has, and tells of them. What is changed is then to be written.
func (b *Batch) decide(rows []Row, first int, have map[string]*known, l *Loaded) error {
	for i := range rows {
		r := &rows[i]
		k := have[r.ID]
		if k == nil {
			k = &known{}
			have[r.ID] = k
		}
		what, err := b.apply(k, r)
		if err != nil {
			bad := &BatchError{ID: r.ID, Ordinal: first + i, Err: err}
			if b.Reject == nil {
				return bad
			}
			b.Reject(bad)
			continue
		}
		l[what]++
		if b.Stored != nil {
			b.Stored(k.m, what)
		}
	}
	return nil
}
