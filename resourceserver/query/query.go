// Package query is the filter language of inmuebles: PostgREST's dialect, read
// into a small typed tree that both stores and plain Go understand.
//
//	query string ─► Parse ─► Node ─┬─► SQL    text with ? and the values beside it
//	                               ├─► Mongo  a filter document
//	                               └─► Match  plain Go, by which the others are tested
//
// # Grammar
//
//	parameter = field "=" condition | ["not."] ("and" | "or") "=" group
//	condition = ["not."] operator "." value | value           ; a value alone means eq
//	group     = "(" term *("," term) ")"
//	term      = field "." ["not."] operator "." word | ["not."] ("and" | "or") group
//	operator  = "eq" | "neq" | "gt" | "gte" | "lt" | "lte" | "like" | "ilike" | "is" | "in" | "fts" | "plfts"
//	list      = "(" [word *("," word)] ")"                    ; the value of in
//	word      = quoted | *any character but , ( ) and "
//	quoted    = DQUOTE *("\" any | any but DQUOTE and "\") DQUOTE
//
// Only words have quotes: the value of a condition that is a parameter of its
// own is everything behind the operator, as it stands. testdata/vectors.json
// shows each rule by example.
//
// # Truth
//
// A condition on null is neither true nor false, as in SQL: construction_type
// neq.3 doesn't find null, and neither does not.eq.3. The parser pushes every
// not down to the conditions, so that each condition of a tree can be asked
// "is it true?" alone, which MongoDB's two-valued logic can answer too.
//
// Text compares by code point. A date compares by its key: see [DateKey].
package query

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// Limits on one filter. Beyond any of them is an [Error] that says which.
const (
	MaxLength  = 8 << 10 // bytes of all conditions together
	MaxDepth   = 8       // levels of and and or
	MaxTerms   = 500     // conditions, each value of an in counted as one
	MaxPattern = 500     // code points of a pattern; of a word there are MaxWord
	MaxOrder   = 5       // fields of an order
)

// Kind is the type of a field's values.
type Kind uint8

// The kinds, and the Go type of their values in a tree. A nil is null.
const (
	Text  Kind = iota // string
	Date              // string, compared by DateKey
	Int               // int64
	Float             // float64, finite
	Bool              // bool
	Time              // int64, Unix time in milliseconds
)

// Field is a member that a filter or an order may name, and where the stores
// keep it.
type Field struct {
	Name     string
	Kind     Kind
	Nullable bool
	Long     bool     // too long to be a key of an order
	Indexed  bool     // the index of words has its words: see Words
	Any      []*Field // a name for several fields of text, of which one must have the word; for full text alone
	Default  any      // what a document that lacks it has; nil where there is no such thing

	Column string // SQL: an expression that is never missing a default
	Path   string // MongoDB: the element, which may be missing when it has its default
	Raw    string // where the text itself is, if Column and Path hold the keys of dates

	from *Circle // the value is the distance from its middle
}

// Fields are the fields that there are: the allow-list.
type Fields map[string]*Field

// Op is what a node does.
type Op uint8

// The operators of a tree. And and Or have Nodes; without any, And is true
// and Or is false. All others are conditions on Field: In and Nin with List,
// Null and NotNull with nothing, the rest with Value.
const (
	And Op = iota
	Or
	Eq
	Neq
	Gt
	Gte
	Lt
	Lte
	In
	Nin
	Null
	NotNull
	Like
	Nlike
	Ilike
	Nilike
	Word // Field has the word that Value is: see [MatchWord]
	Nword
	Near   // the place is in the Circle that Value is
	Inside // the place is in the Area that Value is
)

// What the parser knows beside: full text becomes a tree of words.
const (
	fullText Op = iota + Inside + 1
	plainText
)

// negated pairs every operator with the one that is true where it is false.
var negated = [...]Op{
	And: Or, Or: And, Eq: Neq, Neq: Eq, Gt: Lte, Lte: Gt, Lt: Gte, Gte: Lt,
	In: Nin, Nin: In, Null: NotNull, NotNull: Null, Like: Nlike, Nlike: Like, Ilike: Nilike, Nilike: Ilike,
	Word: Nword, Nword: Word,
}

// Node is a tree of conditions. Its zero value is true of everything.
type Node struct {
	Op    Op
	Nodes []Node
	Field *Field
	Value any
	List  []any
}

// All reports whether the tree is true of everything.
func (n *Node) All() bool { return n.Op == And && len(n.Nodes) == 0 }

// None reports whether the tree is true of nothing.
func (n *Node) None() bool { return n.Op == Or && len(n.Nodes) == 0 }

// OnlyOn reports whether the tree is about no other fields than these. A
// condition on a place is about the longitude.
func (n *Node) OnlyOn(fields ...*Field) bool {
	if n.Field != nil && !slices.Contains(fields, n.Field) {
		return false
	}
	for i := range n.Nodes {
		if !n.Nodes[i].OnlyOn(fields...) {
			return false
		}
	}
	return true
}

// both is a tree that is true where all of nodes are.
func both(nodes ...Node) Node {
	var some []Node
	for i := range nodes {
		if !nodes[i].All() {
			some = append(some, nodes[i])
		}
	}
	if len(some) == 1 {
		return some[0]
	}
	return Node{Op: And, Nodes: some}
}

// Error says what is wrong with a parameter, never repeating its value.
type Error struct {
	Parameter string
	Reason    i18n.Text
	Hint      i18n.Text // what to write instead; may be ""
}

// Error names the parameter and the reason.
func (e *Error) Error() string {
	return fmt.Sprintf("query: %s %s", e.Parameter, strings.TrimSuffix(e.Reason.String(), "."))
}
