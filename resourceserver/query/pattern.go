package query

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// A pattern, of like and ilike, is text in which * and % stand for any
// characters, also none, and _ for exactly one; a \ takes that meaning from
// the character behind it. In a tree it is canonical: % for *, one % for
// several in a row, a \ only before % _ and \.

// parsePattern makes a pattern canonical. reason is "" or what is wrong.
func parsePattern(s string) (canonical string, reason i18n.Text) {
	if utf8.RuneCountInString(s) > MaxPattern {
		return "", "has a pattern that is too long: 500 characters is the limit"
	}
	var b strings.Builder
	escaped, star := false, false
	for _, r := range s {
		switch {
		case escaped:
			if r == '%' || r == '_' || r == '\\' {
				b.WriteByte('\\')
			}
			b.WriteRune(r)
			escaped, star = false, false
		case r == '\\':
			escaped = true
		case r == '*' || r == '%':
			if !star {
				b.WriteByte('%')
			}
			star = true
		default:
			b.WriteRune(r)
			star = false
		}
	}
	if escaped {
		return "", `has a pattern that ends in a \ with nothing behind it`
	}
	return b.String(), ""
}

// MatchPattern reports whether text matches a canonical pattern; fold is for
// ilike, which doesn't look at the case of letters. It takes time
// proportional to the product of the lengths at worst.
func MatchPattern(pattern, text string, fold bool) bool {
	p, t := 0, 0
	star, retry := -1, 0 // after the last %, and where in text to try again
	for {
		if p < len(pattern) && pattern[p] == '%' {
			p++
			star, retry = p, t
			continue
		}
		if p == len(pattern) && t == len(text) {
			return true
		}
		if p < len(pattern) && t < len(text) {
			r, n := utf8.DecodeRuneInString(text[t:])
			want, size := utf8.DecodeRuneInString(pattern[p:])
			one := want == '_'
			if want == '\\' {
				var m int
				want, m = utf8.DecodeRuneInString(pattern[p+size:])
				size += m
			}
			if one || r == want || fold && folded(r) == folded(want) {
				p, t = p+size, t+n
				continue
			}
		}
		if star < 0 || retry >= len(text) {
			return false
		}
		_, n := utf8.DecodeRuneInString(text[retry:])
		retry += n
		p, t = star, retry
	}
}

// folded is the least of the runes that differ from r in case alone.
func folded(r rune) rune {
	if r < utf8.RuneSelf {
		if 'a' <= r && r <= 'z' {
			r -= 'a' - 'A'
		}
		return r // all of ASCII folds to ASCII: K before the Kelvin sign
	}
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}

// regex is a canonical pattern as a regular expression of PCRE. An atomic
// group takes the first place where a piece between two % fits, which is
// never a worse choice than a later one, so that nothing is tried twice. The
// case of a letter is left open by naming both, since what an engine's own
// flag folds is not written down.
func regex(pattern string, fold bool) string {
	var b strings.Builder
	b.WriteString(`\A`)
	pieces := splitPattern(pattern)
	for i, piece := range pieces {
		last := i == len(pieces)-1
		switch {
		case i == 0:
			writePiece(&b, piece, fold)
		case last:
			b.WriteString(`(?s:.*)`)
			writePiece(&b, piece, fold)
		default:
			b.WriteString(`(?>(?s:.*?)`)
			writePiece(&b, piece, fold)
			b.WriteByte(')')
		}
	}
	b.WriteString(`\z`)
	return b.String()
}

// splitPattern cuts a pattern at its %.
func splitPattern(pattern string) []string {
	pieces := []string{}
	from := 0
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\':
			i++
		case '%':
			pieces = append(pieces, pattern[from:i])
			from = i + 1
		}
	}
	return append(pieces, pattern[from:])
}

func writePiece(b *strings.Builder, piece string, fold bool) {
	escaped := false
	for _, r := range piece {
		switch {
		case !escaped && r == '\\':
			escaped = true
			continue
		case !escaped && r == '_':
			b.WriteString(`(?s:.)`)
		case fold && unicode.SimpleFold(r) != r:
			b.WriteByte('[')
			b.WriteRune(r)
			for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
				b.WriteRune(f)
			}
			b.WriteByte(']')
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
		escaped = false
	}
}
