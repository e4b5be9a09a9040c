package resourceserver

import (
	"bytes"
	"context"
	"errors"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// What a store answers with, wrapped. Anything else is a failure that no
// caller can do something about.
var (
	// ErrNotFound: no inmueble has this _id.
	ErrNotFound = errors.New("resourceserver: no such inmueble")
	// ErrNotOwner: there is one, but it is not the asker's to change.
	ErrNotOwner = errors.New("resourceserver: the inmueble is somebody else's")
	// ErrChanged: there is one, and the asker's, but it isn't as the asker's
	// condition wants it.
	ErrChanged = errors.New("resourceserver: the inmueble is not as the condition wants it")
	// ErrDuplicate: there is one with this _id already.
	ErrDuplicate = errors.New("resourceserver: the _id is taken")
	// ErrUnreadable: what is stored under this _id is no valid inmueble.
	ErrUnreadable = errors.New("resourceserver: the stored document is not a valid inmueble")
	// ErrUnavailable: the database can't be reached, or not now. The same
	// call may succeed later.
	ErrUnavailable = errors.New("resourceserver: the database is not available")
)

// Store keeps inmuebles. Every method may be called at any time from any
// number of goroutines and processes on one database, and is one atomic step
// against all others: nobody sees half of it. When it returned without an
// error, its effect is as durable as the database was opened to be, and is
// seen by whatever starts later. When it returned an error, it had no effect;
// only after [ErrUnavailable] or an error of the context is that unknown.
//
// What goes in must be valid. What comes out is: a document that some other
// program spoiled is reported as unreadable, and spoils nothing else.
type Store interface {
	// Get returns one inmueble, or ErrNotFound or ErrUnreadable.
	Get(ctx context.Context, id string) (Inmueble, error)

	// Find returns a page: the first of the documents that q asks for, from at
	// most q.Limit of them, and from fewer once they have maxPageBytes. A walk
	// from page to page meets every document that was there all the time, and
	// whose place in the order didn't change, exactly once, whatever others
	// insert and delete meanwhile. A page costs the same at any depth where an
	// index has the order.
	Find(ctx context.Context, q Query) (Page, error)

	// Count returns how many documents where is true of, unreadable ones too.
	// It stops counting at most, unless that is 0.
	Count(ctx context.Context, where query.Node, most int) (int, error)

	// Stats returns the groups of the documents that q.Where is true of, with
	// the figures of each, in the order of their keys; one group, of whatever
	// there is, if q names no fields to group by. Documents in which a field
	// that q.Group or q.Of names isn't valid are left out. It returns
	// ErrTooManyGroups where there are more than q.Most. The figures are the
	// same from every store: see [Figures].
	Stats(ctx context.Context, q StatsQuery) ([]Group, error)

	// Insert stores a new inmueble, or returns ErrDuplicate.
	Insert(ctx context.Context, m Inmueble) error

	// Replace puts the fields of m in place of what is stored under m.ID and
	// returns what is stored now. Owner and CreatedAt stay as they are;
	// UpdatedAt becomes m's, but stays too when nothing else changed. It
	// returns ErrNotFound, or ErrNotOwner when by may not change it: the
	// condition is part of the write itself, so nothing can come between. So
	// is by's [Match], and then the error is ErrChanged. An unreadable
	// document is repaired; of its owner and time it keeps what can be read.
	Replace(ctx context.Context, m Inmueble, by By) (Inmueble, error)

	// Update puts what change makes of the stored inmueble in its place, with
	// the errors and conditions of Replace, change's own error as it is, and
	// ErrUnreadable. Nothing comes between what change was given and what is
	// stored: change is called again when somebody else was faster. What it
	// returns must be valid; _id, Owner and CreatedAt stay as they are.
	Update(ctx context.Context, id string, by By, change func(Inmueble) (Inmueble, error)) (Inmueble, error)

	// Delete removes an inmueble, or an unreadable document, with the same
	// errors and the same condition as Replace.
	Delete(ctx context.Context, id string, by By) error

	// Load stores all rows of a batch or, when they yield an error or one of
	// them can't be stored, nothing: see [Batch]. It takes the rows one by
	// one and keeps a bounded number of them; it stops taking them once it
	// can't succeed. A load of more rows than the database can take in one
	// transaction is seen while it is under way, and is undone if it fails;
	// if its process dies, by the next one that works on the database.
	Load(ctx context.Context, b Batch) (Loaded, error)

	// Check returns an error while the store can't serve reads.
	Check(ctx context.Context) error
}

// maxPageBytes is how much stored text makes a page full, so that a thousand
// long descriptions don't have to fit into memory, or into one batch of
// MongoDB's (16 MiB).
const maxPageBytes = 4 << 20

// Query asks for a page.
type Query struct {
	Where query.Node
	Order query.Order // its last key is the _id
	Limit int

	// Where the page begins: behind the document with these keys, or at the
	// first if they are nil; and Skip documents further on.
	After []any
	Skip  int

	// Into, unless it is nil, gets the answers about the page's inmueble, ready
	// to send, and Page.Items stays empty.
	Into *Answers
}

// Page is a part of what a query asks for.
type Page struct {
	Items []Inmueble

	// More is whether there are documents behind the page, and After and Skip
	// are then those of its Query. A page may hold fewer items than asked for,
	// or none, and there are still more.
	More  bool
	After []any
	Skip  int

	// First has the keys of the page's first document.
	First []any

	// Unreadable lists the documents that were left out.
	Unreadable []Unreadable

	met, size int // documents so far, and their bytes
}

// Unreadable names a document that is no valid inmueble.
type Unreadable struct {
	ID  string
	Err error
}

// By says who asks for a change, and what must be there for it. Its zero
// value may change nothing.
type By struct {
	sub    string
	anyone bool
	match  Match
}

// Owner may change what sub owns. The empty sub owns nothing.
func Owner(sub string) By { return By{sub: sub} }

// Admin may change anything.
var Admin = By{anyone: true}

// If is the same asker, on a condition.
func (b By) If(m Match) By {
	b.match = m
	return b
}

// mayChange reports whether by may change what owner owns.
func (b By) mayChange(owner string) bool { return b.anyone || b.sub != "" && owner == b.sub }

// settle makes next, which is to take the place of current, what will be
// stored. same is true when that is current, so that nothing is to be
// written.
func settle(current *Inmueble, readable bool, next Inmueble) (stored Inmueble, same bool) {
	next.ID, next.Owner, next.CreatedAt = current.ID, current.Owner, current.CreatedAt
	if readable && bytes.Equal(next.appendStored(nil), current.appendStored(nil)) {
		return *current, true
	}
	return next, false
}
