package resourceserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"strings"
)

// Format is a way to write many inmuebles. What is written as CSV or NDJSON,
// [Import] reads again to the same documents; owner and times are its own.
type Format struct {
	Name      string // as a flag has it
	MediaType string

	begin, between, end string
	append              func(b []byte, m *Inmueble) []byte
}

// The formats. CSV has the columns of the original's files.
var (
	JSON   = Format{"json", "application/json", "[\n", ",\n", "\n]\n", func(b []byte, m *Inmueble) []byte { return m.AppendJSON(b) }}
	NDJSON = Format{"ndjson", "application/x-ndjson", "", "", "", func(b []byte, m *Inmueble) []byte { return append(m.AppendJSON(b), '\n') }}
	CSV    = Format{"csv", "text/csv; charset=utf-8; header=present", csvHeader, "", "", func(b []byte, m *Inmueble) []byte { return m.AppendCSV(b) }}
	// RFC 7946.
	GeoJSON = Format{
		"geojson", "application/geo+json", `{"type":"FeatureCollection","features":[` + "\n", ",\n", "\n]}\n",
		func(b []byte, m *Inmueble) []byte { return m.AppendGeoJSON(b) },
	}
)

// Formats are all of them.
var Formats = []Format{JSON, NDJSON, CSV, GeoJSON}

// Begin appends what comes before the first inmueble.
func (f *Format) Begin(b []byte) []byte { return append(b, f.begin...) }

// Append appends the n-th inmueble, from 0.
func (f *Format) Append(b []byte, n int, m *Inmueble) []byte {
	if n > 0 {
		b = append(b, f.between...)
	}
	return f.append(b, m)
}

// End appends what comes behind the last. A reader that misses it knows that
// a JSON or GeoJSON was cut off.
func (f *Format) End(b []byte) []byte { return append(b, f.end...) }

// Export writes inmuebles in constant memory and returns how many.
func Export(w io.Writer, f Format, docs iter.Seq2[Inmueble, error]) (n int, err error) {
	out := bufio.NewWriterSize(w, 64<<10)
	buf := f.Begin(nil)
	for m, err := range docs {
		if err != nil {
			return n, err
		}
		buf = f.Append(buf, n, &m)
		n++
		if _, err := out.Write(buf); err != nil {
			return n, fmt.Errorf("resourceserver: write the export: %w", err)
		}
		buf = buf[:0]
	}
	_, err = out.Write(f.End(buf))
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return n, fmt.Errorf("resourceserver: write the export: %w", err)
	}
	return n, nil
}

// All yields every inmueble in the order of the _id, a page at a time, and
// tells of those that can't be read. It meets whatever was there all the
// time.
func All(ctx context.Context, s Store, unreadable func(Unreadable)) iter.Seq2[Inmueble, error] {
	return Every(ctx, s, Query{Order: byID}, unreadable)
}

// ErrQuery is what [ParseQuery] returns, wrapped.
var ErrQuery = errors.New("resourceserver: not a query")

// ParseQuery reads the filters and the order of a list's query string, for
// [Every]. Other parameters mean nothing where all is written.
func ParseQuery(text string) (Query, error) {
	params, err := url.ParseQuery(text)
	if err != nil {
		return Query{}, fmt.Errorf("%w: it can't be parsed as a query string", ErrQuery)
	}
	var q Query
	for name := range params {
		switch name {
		case paramOrder, paramBox, paramNear, paramWithin:
			continue
		}
		if !filterFields.IsFilter(name) {
			return Query{}, fmt.Errorf("%w: %s is neither a field nor and, or, bbox, near, within, order", ErrQuery, shown(name))
		}
	}
	if q.Where, q.Order, err = parseFilter(params); err != nil {
		return Query{}, fmt.Errorf("%w: %w", ErrQuery, err)
	}
	return q, nil
}

// csvColumns are those of the original's files, by the fields that they hold.
var csvColumns = func() []column {
	var columns []column
	for i := range fields {
		switch fields[i].name {
		case "x_coord":
			columns = append(columns, column{i, i + 1})
		case "y_coord":
		default:
			columns = append(columns, column{i, i})
		}
	}
	return columns
}()

var csvHeader = func() string {
	var names []string
	for _, c := range csvColumns {
		name := fields[c.first].name
		switch name {
		case "_id":
			name = "id_uda"
		case "other_id":
			name = "id"
		case "x_coord":
			name = "coordinates"
		}
		names = append(names, name)
	}
	return strings.Join(names, ",") + "\n"
}()

// AppendCSV appends the inmueble as a row of a file with the original's
// columns, with its line end.
func (m *Inmueble) AppendCSV(b []byte) []byte {
	for i, c := range csvColumns {
		if i > 0 {
			b = append(b, ',')
		}
		if c.first != c.last {
			b = append(b, '"')
			b = appendNumber(b, m.XCoord)
			b = append(b, ',')
			b = appendNumber(b, m.YCoord)
			b = append(b, '"')
			continue
		}
		f := &fields[c.first]
		switch p := f.at(m).(type) {
		case *string:
			b = appendCSVText(b, f.escape(*p))
		case **int32:
			if *p != nil {
				b = f.appendValue(b, m)
			}
		default:
			b = f.appendValue(b, m)
		}
	}
	return append(b, '\n')
}

// escape is a text as a file has it, so that the import reads it back.
func (f *field) escape(text string) string {
	switch f.name {
	case "_id":
		if strings.HasPrefix(text, `\`) || isNull(text) || strings.TrimSpace(text) != text {
			return `\` + text
		}
		return text
	case "other_id":
		if isNull(text) || strings.Map(keepAlphanumeric, text) != text {
			return `\` + text
		}
		return text
	}
	if !f.required && text == "" {
		return text
	}
	return escapeNull(text)
}

// appendCSVText appends a value, in quotes where it needs them (RFC 4180).
func appendCSVText(b []byte, text string) []byte {
	if !strings.ContainsAny(text, ",\"\r\n;\t") {
		return append(b, text...)
	}
	b = append(b, '"')
	for {
		i := strings.IndexByte(text, '"')
		if i < 0 {
			break
		}
		b = append(b, text[:i]...)
		b = append(b, '"', '"')
		text = text[i+1:]
	}
	b = append(b, text...)
	return append(b, '"')
}

// AppendGeoJSON appends the inmueble as a Feature, a point (RFC 7946 §3.2).
func (m *Inmueble) AppendGeoJSON(b []byte) []byte {
	b = append(b, `{"type":"Feature","id":`...)
	b = appendText(b, m.ID)
	b = append(b, `,"geometry":{"type":"Point","coordinates":[`...)
	b = appendNumber(b, m.XCoord)
	b = append(b, ',')
	b = appendNumber(b, m.YCoord)
	b = append(b, `]},"properties":`...)
	return append(m.AppendJSON(b), '}')
}
