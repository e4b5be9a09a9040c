package resourceserver

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.mongodb.org/mongo-driver/bson/primitive"
)

// column is what a column of a file holds: the fields from first to last of
// the table; first is -1 for none.
type column struct{ first, last int }

// The columns that aren't named as their field, as the original's files have
// them.
var columnAliases = map[string]column{
	"id_uda":      {fieldIndex["_id"], fieldIndex["_id"]},
	"id":          {fieldIndex["other_id"], fieldIndex["other_id"]},
	"coordinates": {fieldIndex["x_coord"], fieldIndex["y_coord"]},
}

func columnNamed(name string) column {
	if c, ok := columnAliases[name]; ok {
		return c
	}
	if i, ok := fieldIndex[name]; ok {
		return column{i, i}
	}
	return column{-1, -1}
}

// parse makes an inmueble of a row. wrong says what is wrong with which
// column; skip is true for a row without an id.
func (r *rowReader) parse(record []string) (m Inmueble, wrong ValidationError, skip bool) {
	var got seen
	for i, c := range r.columns {
		text := record[i]
		if c.first < 0 || isNull(text) {
			continue
		}
		var reason string
		if c.first != c.last {
			reason = setCoordinates(&m, text)
		} else {
			reason = fields[c.first].parse(&m, text)
		}
		if reason != "" {
			wrong = append(wrong, FieldError{r.columnOf[c.first], reason})
		}
		for f := c.first; f <= c.last; f++ {
			got.mark(f)
		}
	}
	if m.OtherID == "" {
		return Inmueble{}, nil, true
	}
	if m.ID == "" {
		m.ID = NewID()
		r.report.MadeIDs++
	}
	for _, e := range got.missing(1) {
		wrong = append(wrong, FieldError{r.columnOf[fieldIndex[e.Field]], e.Reason})
	}
	m.Owner, m.CreatedAt, m.UpdatedAt = r.opts.Owner, stamp(r.opts.Now), stamp(r.opts.Now)
	if wrong != nil {
		return Inmueble{}, slices.Compact(wrong), false // a missing pair of coordinates is one thing
	}
	if invalid, ok := m.Validate().(ValidationError); ok { //nolint:errorlint // it returns nothing else
		for _, e := range invalid {
			wrong = append(wrong, FieldError{r.columnOf[fieldIndex[e.Field]], e.Reason})
		}
	}
	return m, wrong, false
}

// NewID makes an _id: 24 hexadecimal digits, a MongoDB ObjectID as the
// original's were. It begins with the time in seconds, so new inmuebles come
// last in the list.
func NewID() string { return primitive.NewObjectID().Hex() }

// isNull reports whether a value stands for none.
func isNull(text string) bool {
	text = strings.TrimSpace(text)
	return text == "" || strings.EqualFold(text, "null") || strings.EqualFold(text, "none")
}

// parse sets the field from a value that isn't null. It returns what is wrong
// with it, or "".
func (f *field) parse(m *Inmueble, text string) string {
	switch f.at(m).(type) {
	case *bool:
		v, ok := yesNo[strings.ToLower(strings.TrimSpace(text))]
		if !ok {
			return f.wants()
		}
		return f.setBool(m, v)
	case *string:
		switch f.name {
		case "_id":
			text = strings.TrimSpace(text)
		case "other_id":
			text = strings.Map(keepAlphanumeric, text)
		}
		return f.setText(m, text)
	}
	v, ok := parseNumber(text)
	if !ok {
		return f.wants()
	}
	return f.setFloat(m, v)
}

var yesNo = map[string]bool{
	"true": true, "t": true, "1": true, "1.0": true, "yes": true, "y": true, "sí": true, "si": true, "s": true,
	"false": false, "f": false, "0": false, "0.0": false, "no": false, "n": false,
}

func keepAlphanumeric(c rune) rune {
	if c != unicode.ReplacementChar && (unicode.IsLetter(c) || unicode.IsNumber(c)) {
		return c
	}
	return -1
}

// setCoordinates sets both coordinates from "x,y".
func setCoordinates(m *Inmueble, text string) string {
	left, right, _ := strings.Cut(text, ",")
	x, okX := parseNumber(left)
	y, okY := parseNumber(right)
	if !okX || !okY {
		return `must be two numbers, "x,y"`
	}
	fields[fieldIndex["x_coord"]].setFloat(m, x)
	fields[fieldIndex["y_coord"]].setFloat(m, y)
	return ""
}

// parseNumber reads a finite decimal number. strconv alone would also take
// 0x1p4, inf, nan and 1_000.
func parseNumber(text string) (float64, bool) {
	text = strings.TrimSpace(text)
	if strings.Trim(text, "0123456789+-.eE") != "" {
		return 0, false
	}
	v, err := strconv.ParseFloat(text, 64)
	return v, err == nil && !math.IsInf(v, 0)
}
