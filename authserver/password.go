package authserver

import (
	"encoding/json"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/ccojocar/zxcvbn-go/data"
	"golang.org/x/text/unicode/norm"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// Length of a password, in code points after normalisation (NIST 800-63B
// §5.1.1.2 wants at least 8, and at least 64 allowed).
const (
	minPassword = 8
	maxPassword = 128
)

// normalisePassword is what is hashed and compared: NFKC (NIST 800-63B
// §5.1.1.2), so that the same password typed on two keyboards is the same.
func normalisePassword(password string) string { return norm.NFKC.String(password) }

// weakness says in words why a password may not be chosen, or "" when it may.
// It follows NIST 800-63B: length, a list of common passwords, nothing taken
// from the user's own data; no rules about kinds of characters.
func weakness(password string, own ...string) i18n.Text {
	password = normalisePassword(password)
	switch n := utf8.RuneCountInString(password); {
	case n < minPassword:
		return "must have at least 8 characters"
	case n > maxPassword:
		return "must have at most 128 characters"
	}
	folded := strings.ToLower(password)
	distinct := map[rune]bool{}
	for _, r := range folded {
		distinct[r] = true
	}
	if len(distinct) < 4 {
		return "must have at least 4 different characters"
	}
	if _, common := commonPasswords()[folded]; common {
		return "is one of the most common passwords"
	}
	for _, value := range own {
		for _, part := range parts(value) {
			if resembles(folded, part) {
				return "is too similar to the e-mail address, a name or the company"
			}
		}
	}
	return ""
}

// parts splits a user's value into what a password could be made of: the
// whole and its words, the domain's last label (com, es) aside.
func parts(value string) []string {
	value = strings.ToLower(norm.NFKC.String(value))
	all := append([]string{value}, strings.FieldsFunc(value, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})...)
	if local, _, ok := strings.Cut(value, "@"); ok {
		all = append(all, local)
	}
	return all
}

// resembles reports whether a password is a variation of part: part makes up
// at least half of it, or seven tenths of the longer one stay the same.
func resembles(password, part string) bool {
	n, m := utf8.RuneCountInString(part), utf8.RuneCountInString(password)
	if n < 4 {
		return false
	}
	if strings.Contains(password, part) && 2*n >= m {
		return true
	}
	longest := max(n, m)
	if 10*min(n, m) < 7*longest { // the distance is at least the difference in length
		return false
	}
	return 10*(longest-distance([]rune(password), []rune(part))) >= 7*longest
}

// distance is the Levenshtein distance of two strings.
func distance(a, b []rune) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i, ca := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j, cb := range b {
			cost := diagonal
			if ca != cb {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// commonPasswords is zxcvbn's list, those long enough to pass otherwise. It is
// unpacked when the first password is chosen: most processes that start never
// need it.
var commonPasswords = sync.OnceValue(func() map[string]struct{} {
	raw, err := data.Asset("data/Passwords.json")
	if err != nil {
		panic("authserver: the list of common passwords is missing from the binary: " + err.Error())
	}
	var file struct{ List []string }
	if err := json.Unmarshal(raw, &file); err != nil {
		panic("authserver: the list of common passwords can't be read: " + err.Error())
	}
	set := make(map[string]struct{}, len(file.List)/4)
	for _, p := range file.List {
		if len(p) >= minPassword {
			set[strings.ToLower(p)] = struct{}{}
		}
	}
	return set
})
