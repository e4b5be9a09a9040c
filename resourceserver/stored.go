package resourceserver

import (
	"bytes"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// readOwn reads a stored document in the form that appendStored gives it: no
// white space, no member twice, nothing that doesn't fit. A list
// is mostly such documents, and the general reader takes four times as long.
// At anything else ok is false, and that one must judge. doc must be valid
// JSON, as the column's CHECK has it.
func (m *Inmueble) readOwn(doc []byte) (got seen, ok bool) {
	if len(doc) < 2 || doc[0] != '{' {
		return 0, false
	}
	rest := doc[1:]
	likely := 1 // the table's order is the document's
	for {
		name, after, ok := plainText(rest)
		if !ok || len(after) < 2 || after[0] != ':' {
			return 0, false
		}
		rest = after[1:]
		for likely < len(fields) && !fields[likely].required && fields[likely].name != string(name) {
			likely++
		}
		i := likely
		if i >= len(fields) || fields[i].name != string(name) {
			known := false
			if i, known = fieldIndex[string(name)]; !known {
				i = -1
			}
		}
		if i >= 0 {
			if got&(1<<i) != 0 {
				return 0, false
			}
			got.mark(i)
			likely = i + 1
		}
		var value []byte
		var reason i18n.Text
		switch c := rest[0]; {
		case c == '"':
			if value, rest, ok = plainText(rest); !ok {
				return 0, false
			}
			if i >= 0 {
				reason = fields[i].setText(m, string(value))
			}
		case c == '{' || c == '[' || i < 0 || fields[i].name == "other_id": // whose digits are kept, all of them
			return 0, false
		default:
			end := bytes.IndexAny(rest, ",}")
			if end < 0 {
				return 0, false
			}
			value, rest = rest[:end], rest[end:]
			reason = fields[i].setPlain(m, value)
		}
		if reason != "" || len(rest) == 0 {
			return 0, false
		}
		switch {
		case rest[0] == ',':
			rest = rest[1:]
		case len(rest) == 1 && rest[0] == '}':
			return got, true
		default:
			return 0, false
		}
	}
}

// setPlain takes a value that is neither text, list nor object. It makes no
// string of it.
func (f *field) setPlain(m *Inmueble, text []byte) i18n.Text {
	switch string(text) {
	case "true", "false":
		return f.setBool(m, text[0] == 't')
	case "null":
		return f.setNull(m)
	}
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil && text[0] != '+' {
		return f.setInt(m, n)
	}
	if len(bytes.Trim(text, "0123456789+-.eE")) > 0 {
		return f.wants()
	}
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return f.wants()
	}
	return f.setFloat(m, v)
}

// plainText takes a text in quotes off b.
func plainText(b []byte) (text, rest []byte, ok bool) {
	if len(b) < 2 || b[0] != '"' {
		return nil, nil, false
	}
	end := 1 + bytes.IndexByte(b[1:], '"')
	if end == 0 {
		return nil, nil, false
	}
	if bytes.IndexByte(b[1:end], '\\') < 0 {
		return b[1:end], b[end+1:], true
	}
	for end = 1; end < len(b) && b[end] != '"'; end++ {
		if b[end] == '\\' {
			end++
		}
	}
	if end >= len(b) {
		return nil, nil, false
	}
	text, err := jsontext.AppendUnquote(nil, b[:end+1])
	return text, b[end+1:], err == nil
}
