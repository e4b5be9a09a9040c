package resourceserver

import (
	"strings"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/resourceserver/query"
)

// member is one member of an answer that select asked for.
type member struct {
	label string // its name in quotes and a colon, as JSON has it
	at    int    // index into fields, and behind them the three that the server sets
}

// allMembers are the names of an answer's members, in order.
var allMembers = func() (names []string) {
	for i := range fields {
		names = append(names, fields[i].name)
	}
	return append(names, nameOwner, nameCreatedAt, nameUpdatedAt)
}()

// maxAlias bounds the name that select gives to a member, in bytes.
const maxAlias = 64

// parseSelect reads the value of select: members with a comma between, each
// with another name and a colon before it as wanted, and * for all. None are
// all of them, as nil.
func parseSelect(text string) ([]member, error) {
	if text == "" || text == "*" {
		return nil, nil
	}
	fail := func(reason, hint i18n.Text) ([]member, error) {
		return nil, &query.Error{Parameter: paramSelect, Reason: reason, Hint: hint}
	}
	var members []member
	taken := map[string]bool{}
	add := func(name string, at int) bool {
		label := append(appendText(nil, name), ':')
		members = append(members, member{string(label), at})
		was := taken[name]
		taken[name] = true
		return !was
	}
	for part := range strings.SplitSeq(text, ",") {
		if part == "*" {
			for at, name := range allMembers {
				if !add(name, at) {
					return fail("names a member twice", "")
				}
			}
			continue
		}
		alias, name, renamed := strings.Cut(part, ":")
		if !renamed {
			name = alias
		}
		at := -1
		for i, known := range allMembers {
			if known == name {
				at = i
			}
		}
		switch {
		case at < 0:
			return fail("names a member that doesn't exist", "write members with a comma between, and newname:member to rename; there are no casts, functions or embedded resources")
		case alias == "" || len(alias) > maxAlias || checkText(alias, maxAlias) != "":
			return fail("has a new name that is empty or longer than 64 bytes", "")
		case !add(alias, at):
			return fail("names a member twice", "")
		}
	}
	return members, nil
}

// appendMembers appends a JSON object of some members.
func (m *Inmueble) appendMembers(b []byte, members []member) []byte {
	b = append(b, '{')
	for i, one := range members {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, one.label...)
		switch at := one.at - len(fields); at {
		case 0:
			b = appendText(b, m.Owner)
		case 1:
			b = appendTime(b, m.CreatedAt)
		case 2:
			b = appendTime(b, m.UpdatedAt)
		default:
			b = fields[one.at].appendValue(b, m)
		}
	}
	return append(b, '}')
}
