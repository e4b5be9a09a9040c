package resourceserver

import (
	"context"
	"errors"
	"fmt"
)

// The database itself can hold to what [Inmueble.Validate] wants, for programs
// that write into it past this one: a validator in MongoDB, triggers in SQLite,
// both drawn from the table of fields. What they let in is what this server
// can read, no more and no less; the tests ask both about random documents.
//
// They are off unless an operator switches them on, and a server never touches
// them: replicas of two releases would argue about them, and MongoDB wants more
// rights for it than a server needs. They judge what is written. A document
// that isn't valid already may be changed, and stay so: this server gives one
// its date keys, and others may mend it in several steps.
//
// What SQL can't see is text that isn't UTF-8 as such: that is let in.

// Checks is what a database does with a document that is no valid inmueble.
type Checks string

// The choices.
const (
	ChecksOff   Checks = "off"   // nothing
	ChecksWarn  Checks = "warn"  // it notes it: SQLite in a table, MongoDB in its log
	ChecksError Checks = "error" // it refuses it
)

// ErrChecks is wrapped by the error of a database that may not be told so.
var ErrChecks = errors.New("resourceserver: the database's user may not change its checks")

// CheckStatus is how a database stands with its checks.
type CheckStatus struct {
	Checks  Checks
	Other   bool // they aren't those of this release
	Invalid int  // documents that are no valid inmuebles
	Found   int  // of them, those that were written while SQLite warned
}

// Checker is a store whose database can check.
type Checker interface {
	// SetChecks has the database check, or not, from now on. What is stored
	// stays.
	SetChecks(ctx context.Context, c Checks) error

	// CheckStatus looks at every document.
	CheckStatus(ctx context.Context) (CheckStatus, error)
}

// ruleKind is what a rule of the database is about.
type ruleKind int

const (
	ruleText     ruleKind = iota // of at most bound code points, without U+0000
	ruleDigits                   // the same, or a whole number
	ruleInteger                  // of 32 bits, of any numeric type
	ruleNullable                 // the same, or null
	ruleBool
	ruleNumber // finite, from -bound to bound
)

// rule is the kind of the field.
func (f *field) rule() ruleKind {
	switch f.at(&Inmueble{}).(type) {
	case *int32:
		return ruleInteger
	case **int32:
		return ruleNullable
	case *bool:
		return ruleBool
	case *float64:
		return ruleNumber
	case *string:
		if f.name == "other_id" {
			return ruleDigits
		}
		return ruleText
	}
	panic(fmt.Sprintf("resourceserver: a field of a type that has no rule: %s", f.name))
}
