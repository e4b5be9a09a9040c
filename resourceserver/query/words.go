package query

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/text/unicode/norm"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// Full text is about words, by a definition that needs no engine's: a word is
// a run of as many letters and digits as there are, of all that isWord names,
// and two are the same when they differ in case and accents alone. There are
// no stop words, and no stems: piso doesn't find pisos, but pis:* does.

// MaxWord bounds a word that is looked for, in code points.
const MaxWord = 64

// wordRanges are the characters of words. They are written down here, and not
// taken from an engine's tables, because engines know different versions of
// Unicode: the letters and digits of ASCII and Latin 1, all of the alphabets
// from there up to U+1FFF, and from U+2C00 on all but punctuation, symbols
// and what is nobody's. As a class of a regular expression they are wordClass.
var wordRanges = [][2]rune{
	{'0', '9'},
	{'A', 'Z'},
	{'a', 'z'},
	{0xAA, 0xAA},
	{0xB5, 0xB5},
	{0xBA, 0xBA},
	{0xC0, 0xD6},
	{0xD8, 0xF6},
	{0xF8, 0x1FFF},
	{0x2C00, 0x2DFF},
	{0x3040, 0xD7FF},
	{0xF900, 0xFDFF},
	{0x10000, 0x1EFFF},
	{0x20000, 0x3FFFF},
}

var wordClass = func() string {
	var b strings.Builder
	for _, r := range wordRanges {
		fmt.Fprintf(&b, `\x{%x}-\x{%x}`, r[0], r[1])
	}
	return b.String()
}()

func isWord(r rune) bool {
	for _, one := range wordRanges {
		if r <= one[1] {
			return r >= one[0]
		}
	}
	return false
}

// isMark reports whether r is an accent of its own, which words don't have.
func isMark(r rune) bool { return 0x300 <= r && r <= 0x36F }

// folds has what characters of words fold to, where that isn't themselves, and
// which fold to the same.
type folds struct {
	to   map[rune]rune
	from map[rune][]rune
}

var foldings = sync.OnceValue(func() folds {
	all := folds{map[rune]rune{}, map[rune][]rune{}}
	for _, span := range wordRanges {
		for r := span[0]; r <= min(span[1], 0x1EFFF); r++ { // behind are ideographs alone
			base := r
			if parts := norm.NFD.PropertiesString(string(r)).Decomposition(); parts != nil {
				var rest []rune
				for _, d := range string(parts) {
					if !isMark(d) {
						rest = append(rest, d)
					}
				}
				if len(rest) == 1 {
					base = rest[0]
				}
			}
			if base = folded(base); base != r {
				all.to[r] = base
				all.from[base] = append(all.from[base], r)
			}
		}
	}
	return all
})

// foldWord is a character without case and accent.
func foldWord(r rune) rune {
	if r < 0x80 {
		return folded(r)
	}
	if to, ok := foldings().to[r]; ok {
		return to
	}
	return r
}

// eachWord calls f with each word of a text, folded, until it returns true,
// which is then its own answer. The slice is f's until it returns.
func eachWord(text string, f func(word []rune) bool) bool {
	var word []rune
	for _, r := range text {
		switch {
		case isMark(r):
		case isWord(r):
			word = append(word, foldWord(r))
		default:
			if len(word) > 0 && f(word) {
				return true
			}
			word = word[:0]
		}
	}
	return len(word) > 0 && f(word)
}

// MatchWord reports whether a text has a word, which is folded; with a * at
// its end, whether it has one that begins so.
func MatchWord(word, text string) bool {
	word, prefix := strings.CutSuffix(word, "*")
	want := []rune(word)
	return eachWord(text, func(got []rune) bool {
		if len(got) < len(want) || !prefix && len(got) > len(want) {
			return false
		}
		for i, r := range want {
			if got[i] != r {
				return false
			}
		}
		return true
	})
}

// Words are the words of the texts that an index has, folded, each once and in order, for an
// index of words. Of a long one there are the first MaxWord characters, by
// which it is found among others. There is always one: of no words, "".
func Words(texts ...string) []string {
	found := map[string]struct{}{}
	for _, text := range texts {
		eachWord(text, func(word []rune) bool {
			found[string(word[:min(len(word), MaxWord)])] = struct{}{}
			return false
		})
	}
	if len(found) == 0 {
		return []string{""}
	}
	return slices.Sorted(maps.Keys(found))
}

// Limits on what an index of words is asked.
const (
	maxClauses = 8
	maxClause  = 64
)

// Clauses are what an index of words can say about the tree: it is true of no
// document that lacks, of any clause, all the words. Words with a * at their
// end are beginnings. None is all that there is to say of many trees.
func (n *Node) Clauses() (all [][]string) {
	switch n.Op {
	case Word:
		if word, ok := n.Value.(string); ok && n.Field.Indexed {
			return [][]string{{word}}
		}
	case And:
		for i := range n.Nodes {
			all = append(all, n.Nodes[i].Clauses()...)
		}
		return all[:min(len(all), maxClauses)]
	case Or:
		var either []string
		for i := range n.Nodes {
			some := n.Nodes[i].Clauses()
			if some == nil {
				return nil
			}
			best := some[0]
			for _, clause := range some[1:] {
				if len(clause) < len(best) || len(clause) == len(best) && len(clause[0]) > len(best[0]) {
					best = clause // of fewer words, or of a longer one: they are rarer
				}
			}
			either = append(either, best...)
		}
		slices.Sort(either)
		if either = slices.Compact(either); len(either) > 0 && len(either) <= maxClause {
			return [][]string{either}
		}
	}
	return nil
}

// wordRegex is MatchWord's word as a regular expression of PCRE.
func wordRegex(word string) string {
	const marks = `[\x{300}-\x{36f}]*`
	word, prefix := strings.CutSuffix(word, "*")
	var b strings.Builder
	b.WriteString(`(?<![` + wordClass + `])` + marks)
	for _, r := range word {
		b.WriteString("[" + string(foldings().from[r]))
		if isWord(r) { // else it is what a letter folds to, and none itself
			b.WriteRune(r)
		}
		b.WriteString("]" + marks)
	}
	if !prefix {
		b.WriteString(`(?![` + wordClass + `])`)
	}
	return b.String()
}

const (
	hintWords = "write words with & or | between them, ! before one that must not be there, and :* behind the beginning of one; plfts takes plain text and wants all its words"
	hintText  = "there are fts and plfts, each also behind not."
)

// textQuery reads the operand of fts, the form of PostgreSQL's to_tsquery:
//
//	query  = all *("|" all)
//	all    = factor *("&" factor)
//	factor = *"!" ( "(" query ")" | word [":*"] )
type textQuery struct {
	*parser
	field *Field
	text  string // what is left of it
}

func (q *textQuery) next(c byte) bool {
	q.text = strings.TrimLeft(q.text, " ")
	if q.text == "" || q.text[0] != c {
		return false
	}
	q.text = q.text[1:]
	return true
}

// joined reads parts with an operator between, which is op unless not.
func (q *textQuery) joined(op Op, between byte, not bool, part func() (Node, error)) (Node, error) {
	n := Node{Op: op}
	if not {
		n.Op = negated[op]
	}
	for {
		one, err := part()
		if err != nil {
			return Node{}, err
		}
		n.Nodes = append(n.Nodes, one)
		if q.next(between) {
			continue
		}
		if len(n.Nodes) == 1 {
			return n.Nodes[0], nil
		}
		return n, nil
	}
}

func (q *textQuery) query(not bool, depth int) (Node, error) {
	if depth > MaxDepth {
		return Node{}, q.fail(i18n.Textf("is nested too deep: %d levels is the limit", MaxDepth), "")
	}
	return q.joined(Or, '|', not, func() (Node, error) {
		return q.joined(And, '&', not, func() (Node, error) { return q.factor(not, depth) })
	})
}

func (q *textQuery) factor(not bool, depth int) (Node, error) {
	for q.next('!') {
		not = !not
	}
	if q.next('(') {
		n, err := q.query(not, depth+1)
		if err == nil && !q.next(')') {
			err = q.fail("has a ( without its fellow", hintWords)
		}
		return n, err
	}
	end := strings.IndexAny(q.text, " &|!():'<")
	if end < 0 {
		end = len(q.text)
	}
	word := q.text[:end]
	q.text = q.text[end:]
	prefix := strings.HasPrefix(q.text, ":*")
	if prefix {
		q.text = q.text[2:]
	} else if q.text != "" && strings.IndexByte(":'<", q.text[0]) >= 0 {
		return Node{}, q.fail("has a phrase or a weight, which there isn't here", hintWords)
	}
	return q.words(word, prefix, not)
}

// words is a condition that all words of a text are there, of the last the
// beginning if prefix.
func (q *textQuery) words(text string, prefix, not bool) (Node, error) {
	var all []string
	eachWord(text, func(word []rune) bool {
		all = append(all, string(word))
		return false
	})
	if all == nil {
		return Node{}, q.fail("lacks a word to look for", hintWords)
	}
	if prefix {
		all[len(all)-1] += "*"
	}
	var nodes []Node
	for _, word := range all {
		if len([]rune(word)) > MaxWord {
			return Node{}, q.fail(i18n.Textf("has a word that is too long: %d characters is the limit", MaxWord), "")
		}
		n, err := q.word(word, not)
		if err != nil {
			return Node{}, err
		}
		nodes = append(nodes, n)
	}
	switch {
	case len(nodes) == 1:
		return nodes[0], nil
	case not:
		return Node{Op: Or, Nodes: nodes}, nil
	}
	return Node{Op: And, Nodes: nodes}, nil
}

// word is a condition that a word is in the field, or in one of those that it
// stands for.
func (q *textQuery) word(word string, not bool) (Node, error) {
	in := q.field.Any
	if in == nil {
		in = []*Field{q.field}
	}
	if err := q.count(len(in)); err != nil {
		return Node{}, err
	}
	op, joint := Word, Or
	if not {
		op, joint = Nword, And
	}
	nodes := make([]Node, len(in))
	for i, f := range in {
		nodes[i] = Node{Op: op, Field: f, Value: word}
	}
	if len(nodes) == 1 {
		return nodes[0], nil
	}
	return Node{Op: joint, Nodes: nodes}, nil
}

// fullText reads the operand of fts or plfts.
func (p *parser) fullText(f *Field, op Op, not bool, operand string) (Node, error) {
	if f.Kind != Text {
		return Node{}, p.fail("is no text: fts and plfts are for text alone", "")
	}
	q := &textQuery{p, f, operand}
	if op == plainText {
		return q.words(operand, false, not)
	}
	n, err := q.query(not, 1)
	if err == nil && q.next(')') {
		err = q.fail("has a ) without its fellow", hintWords)
	} else if err == nil && q.text != "" {
		err = q.fail("has words without & or | between them", hintWords)
	}
	return n, err
}
