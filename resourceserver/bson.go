package resourceserver

import (
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/resourceserver/query"
)

// appendBSON appends the document that MongoDB keeps: native types, the key
// first, no null and no default, and the keys of the dates.
func (m *Inmueble) appendBSON(b []byte) []byte {
	start, b := bsoncore.AppendDocumentStart(b)
	b = bsoncore.AppendStringElement(b, "_id", m.ID)
	b = m.appendElements(b)
	if m.Owner != "" {
		b = bsoncore.AppendStringElement(b, nameOwner, m.Owner)
	}
	if !m.CreatedAt.IsZero() {
		b = bsoncore.AppendDateTimeElement(b, nameCreatedAt, m.CreatedAt.UnixMilli())
	}
	if !m.UpdatedAt.IsZero() {
		b = bsoncore.AppendDateTimeElement(b, nameUpdatedAt, m.UpdatedAt.UnixMilli())
	}
	b, err := bsoncore.AppendDocumentEnd(b, start)
	if err != nil { // only when start is not an offset into b
		panic(err)
	}
	return b
}

// withWords adds the words of m to its document: see mongo_words.go.
func (m *Inmueble) withWords(doc []byte) []byte {
	words := query.Words(m.Title, m.Description)
	values := make([]bsoncore.Value, len(words))
	for i, word := range words {
		values[i] = bsoncore.Value{Type: bson.TypeString, Data: bsoncore.AppendString(nil, word)}
	}
	doc = bsoncore.BuildArrayElement(doc[:len(doc)-1], query.WordsPath, values...)
	doc = append(doc, 0)
	return bsoncore.UpdateLength(doc, 0, int32(len(doc))) //nolint:gosec // a document is small
}

// appendElements appends the fields after the key.
func (m *Inmueble) appendElements(b []byte) []byte {
	for i := range fields[1:] {
		f := &fields[1+i]
		if f.atDefault(m) {
			continue
		}
		switch p := f.at(m).(type) {
		case *string:
			b = bsoncore.AppendStringElement(b, f.name, *p)
		case *int32:
			b = bsoncore.AppendInt32Element(b, f.name, *p)
		case **int32:
			b = bsoncore.AppendInt32Element(b, f.name, **p)
		case *bool:
			b = bsoncore.AppendBooleanElement(b, f.name, *p)
		case *float64:
			b = bsoncore.AppendDoubleElement(b, f.name, *p)
		}
	}
	for _, k := range m.dateKeys() {
		b = bsoncore.AppendStringElement(b, k[0], k[1])
	}
	return b
}

// dateKeys are the names and values of the keys by which the dates compare.
func (m *Inmueble) dateKeys() [2][2]string {
	return [2][2]string{
		{"date" + keySuffix, query.DateKey(m.Date)},
		{"date_in" + keySuffix, query.DateKey(m.DateIn)},
	}
}

// parseBSON reads a stored document, this server's or another program's:
// field by field, whole numbers of any numeric type where an integer belongs,
// unknown fields skipped. The inmueble is valid, or the error wraps
// [ErrInvalid]. The id is returned in both cases, "" when it isn't text.
func parseBSON(doc bson.Raw) (m Inmueble, id string, err error) {
	var got seen
	var bad ValidationError
	_, rest, ok := bsoncore.ReadLength(doc)
	for ok && len(rest) > 1 {
		var e bsoncore.Element
		if e, rest, ok = bsoncore.ReadElement(rest); !ok {
			break
		}
		// Names are looked up as bytes: a string of each would be half of all
		// that a list allocates.
		v, name := e.Value(), e.KeyBytes()
		i, known := fieldIndex[string(name)]
		if !known {
			if reason := m.setByServer(name, v); reason != "" {
				bad = append(bad, FieldError{string(name), reason})
			}
			continue
		}
		if reason := fields[i].setBSON(&m, v); reason != "" {
			bad = append(bad, FieldError{fields[i].name, reason})
		}
		got.mark(i)
	}
	if !ok {
		return m, m.ID, fmt.Errorf("%w: broken BSON", ErrInvalid)
	}
	if bad = append(bad, got.missing(0)...); bad != nil {
		return m, m.ID, bad
	}
	return m, m.ID, m.Validate()
}

func (f *field) setBSON(m *Inmueble, v bsoncore.Value) i18n.Text {
	switch v.Type {
	case bson.TypeString:
		return f.setText(m, v.StringValue())
	case bson.TypeInt32:
		return f.setInt(m, int64(v.Int32()))
	case bson.TypeInt64:
		return f.setInt(m, v.Int64())
	case bson.TypeDouble:
		return f.setFloat(m, v.Double())
	case bson.TypeBoolean:
		return f.setBool(m, v.Boolean())
	case bson.TypeNull:
		if !f.required { // others store null for what isn't there
			return ""
		}
	}
	return f.wants()
}

// setByServer takes the members that only the server sets, and skips any
// other.
func (m *Inmueble) setByServer(name []byte, v bsoncore.Value) (reason i18n.Text) {
	var at *time.Time
	switch string(name) {
	case nameOwner:
		owner, isText := v.StringValueOK()
		if !isText {
			return "must be text"
		}
		m.Owner = owner
		return ""
	case nameCreatedAt:
		at = &m.CreatedAt
	case nameUpdatedAt:
		at = &m.UpdatedAt
	default:
		return ""
	}
	ms, isTime := v.DateTimeOK()
	if !isTime || ms < minMilli || ms > maxMilli {
		return "must be a date"
	}
	*at = time.UnixMilli(ms).UTC()
	return ""
}
