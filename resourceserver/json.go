package resourceserver

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/resourceserver/query"
)

// timeLayout is RFC 3339 with the milliseconds that the stores keep, always
// three digits, so that times sort as text.
const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// AppendJSON appends the inmueble as the API answers it: every member, in the
// table's order, then what the server set. The inmueble must be valid.
func (m *Inmueble) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	for i := range fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = fields[i].appendJSON(b, m)
	}
	b = append(b, `,"`+nameOwner+`":`...)
	b = appendText(b, m.Owner)
	b = append(b, `,"`+nameCreatedAt+`":`...)
	b = appendTime(b, m.CreatedAt)
	b = append(b, `,"`+nameUpdatedAt+`":`...)
	b = appendTime(b, m.UpdatedAt)
	return append(b, '}')
}

// MarshalJSONTo writes what AppendJSON makes.
func (m *Inmueble) MarshalJSONTo(enc *jsontext.Encoder) error {
	return enc.WriteValue(m.AppendJSON(enc.AvailableBuffer()))
}

// appendStored appends the part of the inmueble that a document column keeps:
// no key, nothing the server sets, no null and no default. Equal inmuebles
// make equal bytes.
func (m *Inmueble) appendStored(b []byte) []byte {
	b = append(b, '{')
	empty := true
	for i := range fields[1:] {
		f := &fields[1+i]
		if f.atDefault(m) {
			continue
		}
		if !empty {
			b = append(b, ',')
		}
		empty = false
		b = f.appendJSON(b, m)
		if f.isDate() {
			b = appendDateKey(b, f.name, *f.at(m).(*string))
		}
	}
	return append(b, '}')
}

// appendDateKey appends the member by which a date compares, unless that is
// the date itself.
func appendDateKey(b []byte, name, date string) []byte {
	key := query.DateKey(date)
	if key == date {
		return b
	}
	b = append(b, `,"`+name+keySuffix+`":`...)
	return appendText(b, key)
}

func (f *field) appendJSON(b []byte, m *Inmueble) []byte {
	b = append(b, '"')
	b = append(b, f.name...)
	b = append(b, '"', ':')
	return f.appendValue(b, m)
}

// appendValue appends the field's value as JSON.
func (f *field) appendValue(b []byte, m *Inmueble) []byte {
	switch p := f.at(m).(type) {
	case *string:
		return appendText(b, *p)
	case *int32:
		return strconv.AppendInt(b, int64(*p), 10)
	case **int32:
		if *p == nil {
			return append(b, "null"...)
		}
		return strconv.AppendInt(b, int64(**p), 10)
	case *bool:
		return strconv.AppendBool(b, *p)
	case *float64:
		return appendNumber(b, *p)
	}
	panic("resourceserver: a field of a type that has no JSON: " + f.name)
}

func appendText(b []byte, s string) []byte {
	b, err := jsontext.AppendQuote(b, s)
	if err != nil { // ill-formed UTF-8: AppendQuote has put U+FFFD for it
		return b
	}
	return b
}

// appendNumber writes the shortest digits that read back as v.
func appendNumber(b []byte, v float64) []byte {
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && abs < 1e-6 {
		format = 'e'
	}
	return strconv.AppendFloat(b, v, format, -1, 64)
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, "null"...)
	}
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, timeLayout)
	return append(b, '"')
}

// UnmarshalJSONFrom reads a request's inmueble. Members that are not in the
// table are skipped: which of them are allowed, and which must be there, is
// the schema's to say, and ranges are Validate's. A value of a wrong type is
// a *json.SemanticError that points at its member and wraps [ErrInvalid].
func (m *Inmueble) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	*m = Inmueble{}
	_, bad, err := m.readJSON(dec, jsonReading{})
	if err == nil && bad != nil {
		err = &json.SemanticError{JSONPointer: jsontext.Pointer("/" + bad[0].Field), Err: bad}
	}
	return err
}

// storedJSON reads what appendStored wrote, or what another program put in
// its place.
type storedJSON struct {
	m   *Inmueble
	got seen
	bad ValidationError
}

func (s *storedJSON) UnmarshalJSONFrom(dec *jsontext.Decoder) (err error) {
	s.got, s.bad, err = s.m.readJSON(dec, jsonReading{})
	return err
}

// parseStored reads the stored document of an inmueble and leaves what the
// server set alone. The inmueble is valid, or the error wraps [ErrInvalid].
func (m *Inmueble) parseStored(id string, doc []byte) error {
	before := *m
	if got, ok := m.readOwn(doc); ok && got.missing(1) == nil {
		m.ID = id
		return m.Validate()
	}
	*m = before
	return m.parseAnyStored(id, doc)
}

// parseAnyStored is parseStored in whatever form the document is.
func (m *Inmueble) parseAnyStored(id string, doc []byte) error {
	s := storedJSON{m: m}
	if err := json.Unmarshal(doc, &s); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if bad := append(s.bad, s.got.missing(1)...); bad != nil {
		return bad
	}
	m.ID = id
	return m.Validate()
}

// jsonReading says how readJSON reads.
type jsonReading struct {
	nullDefault bool              // null stands for the default of a member that has one
	unknown     func(name string) // is told of members that are skipped; nil isn't
}

// readJSON reads one object. The error is the decoder's; bad lists the
// members whose values don't fit.
func (m *Inmueble) readJSON(dec *jsontext.Decoder, how jsonReading) (got seen, bad ValidationError, err error) {
	open, err := dec.ReadToken()
	if err != nil {
		return 0, nil, err
	}
	if open.Kind() != '{' {
		return 0, nil, &json.SemanticError{JSONKind: open.Kind(), Err: fmt.Errorf("%w: not an object", ErrInvalid)}
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return 0, nil, err
		}
		i, known := fieldIndex[name.String()]
		if !known {
			if how.unknown != nil {
				how.unknown(name.String())
			}
			if err := dec.SkipValue(); err != nil {
				return 0, nil, err
			}
			continue
		}
		f := &fields[i]
		if how.nullDefault && !f.required && dec.PeekKind() == 'n' {
			if err := dec.SkipValue(); err != nil {
				return 0, nil, err
			}
			f.copy(m, &Inmueble{})
			got.mark(i)
			continue
		}
		reason, err := f.readJSON(m, dec)
		if err != nil {
			return 0, nil, err
		}
		if reason != "" {
			bad = append(bad, FieldError{f.name, reason})
		}
		got.mark(i)
	}
	_, err = dec.ReadToken()
	return got, bad, err
}

func (f *field) readJSON(m *Inmueble, dec *jsontext.Decoder) (reason i18n.Text, err error) {
	switch kind := dec.PeekKind(); kind {
	case '{', '[':
		return f.wants(), dec.SkipValue()
	default:
		token, err := dec.ReadToken()
		if err != nil {
			return "", err
		}
		switch kind {
		case '"':
			return f.setText(m, token.String()), nil
		case '0':
			return f.setNumber(m, token.String()), nil
		case 't', 'f':
			return f.setBool(m, kind == 't'), nil
		}
		return f.setNull(m), nil
	}
}

// setNumber takes the text of a JSON number.
func (f *field) setNumber(m *Inmueble, text string) i18n.Text {
	if f.name == "other_id" {
		return f.setDigits(m, text)
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return f.setInt(m, n)
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return f.wants()
	}
	return f.setFloat(m, v)
}

// maxInteger bounds a number that becomes text: the greatest power of ten that
// float64 has exactly, so that the schema's bound is the decoder's to the last
// digit.
const (
	maxInteger       = 1e22
	maxIntegerDigits = 22
)

// setDigits keeps a whole number as its digits, all of them: an identifier is
// no quantity, and float64 would lose the end of a long one.
func (f *field) setDigits(m *Inmueble, text string) i18n.Text {
	whole, fraction, _ := strings.Cut(text, ".")
	if strings.ContainsAny(text, "eE") {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || v != math.Trunc(v) || math.Abs(v) > maxInteger {
			return f.wants()
		}
		whole, fraction = strconv.FormatFloat(v, 'f', -1, 64), ""
	}
	if strings.Trim(fraction, "0") != "" {
		return f.wants()
	}
	if whole == "-0" {
		whole = "0"
	}
	if digits := strings.TrimPrefix(whole, "-"); len(digits) > maxIntegerDigits && digits != "1"+strings.Repeat("0", maxIntegerDigits) {
		return f.wants()
	}
	return f.setText(m, whole)
}
