package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// What a store answers with, wrapped. Anything else is a failure that no
// caller can do something about.
var (
	// ErrNotFound: no inmueble has this _id.
	ErrNotFound = errors.New("resourceserver: no such inmueble")
	// ErrNotOwner: there is one, but it is not the asker's to change.
	ErrNotOwner = errors.New("resourceserver: the inmueble is somebody else's")
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

	// List returns what follows the _id after, in the order of the _id's
	// UTF-8 bytes, from at most limit documents, and from fewer once they
	// have maxPageBytes; after "" it starts at the first. A walk from page to page meets every document that was there all
	// the time exactly once, whatever others insert and delete meanwhile.
	List(ctx context.Context, after string, limit int) (Page, error)

	// Insert stores a new inmueble, or returns ErrDuplicate.
	Insert(ctx context.Context, m Inmueble) error

	// Replace puts the fields of m in place of what is stored under m.ID and
	// returns what is stored now. Owner and CreatedAt stay as they are;
	// UpdatedAt becomes m's, but stays too when nothing else changed. It
	// returns ErrNotFound, or ErrNotOwner when by may not change it: the
	// condition is part of the write itself, so nothing can come between. An
	// unreadable document is repaired; of its owner and time it keeps what
	// can be read.
	Replace(ctx context.Context, m Inmueble, by By) (Inmueble, error)

	// Delete removes an inmueble, or an unreadable document, with the same
	// errors and the same condition as Replace.
	Delete(ctx context.Context, id string, by By) error

	// Import inserts all of docs or, when docs yields an error or an _id is
	// taken, nothing. It returns how many it inserted, docs' own error as it
	// is, or a *DuplicateError. It takes docs one by one and keeps a bounded
	// number of them; it stops taking them once it can't succeed.
	Import(ctx context.Context, docs iter.Seq2[Inmueble, error]) (int, error)

	// Check returns an error while the store can't serve reads.
	Check(ctx context.Context) error
}

// maxPageBytes is how much stored text makes a page full, so that a thousand
// long descriptions don't have to fit into memory, or into one batch of
// MongoDB's (16 MiB).
const maxPageBytes = 4 << 20

// Page is a part of the list.
type Page struct {
	Items []Inmueble

	// Next is the after of the next page, "" when there is none. A page may
	// hold fewer items than asked for, or none, and still have a next.
	Next string

	// Unreadable lists the documents that were left out.
	Unreadable []Unreadable
}

// Unreadable names a document that is no valid inmueble.
type Unreadable struct {
	ID  string
	Err error
}

// By says who asks for a change. Its zero value may change nothing.
type By struct {
	sub    string
	anyone bool
}

// Owner may change what sub owns. The empty sub owns nothing.
func Owner(sub string) By { return By{sub: sub} }

// Admin may change anything.
var Admin = By{anyone: true}

// DuplicateError is the ErrDuplicate of an import.
type DuplicateError struct {
	ID      string
	Ordinal int // of the document in the import, from 0; less than importBatch behind the last one taken
}

// importBatch is how many documents an import sends to the database at once.
const importBatch = 1000

// Error names the _id.
func (e *DuplicateError) Error() string { return fmt.Sprintf("%v: %q", ErrDuplicate, e.ID) }

// Unwrap makes errors.Is(err, ErrDuplicate) hold.
func (e *DuplicateError) Unwrap() error { return ErrDuplicate }
