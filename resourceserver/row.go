package resourceserver

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"golang.org/x/text/unicode/norm"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/web"
)

// column is what a column of a file holds: the fields from first to last of
// the table; first is -1 for none.
type column struct{ first, last int }

// columnAliases are names of columns other than those of the fields, folded:
// the original's files have id_uda, id and coordinates. The id alone is the
// other_id, as it was there.
var columnAliases = func() map[string]column {
	names := map[string]string{
		"iduda": "_id", "id": "other_id", "idexterno": "other_id", "reference": "other_id", "referencia": "other_id",
		"x": "x_coord", "lon": "x_coord", "lng": "x_coord", "long": "x_coord", "longitude": "x_coord", "longitud": "x_coord",
		"y": "y_coord", "lat": "y_coord", "latitude": "y_coord", "latitud": "y_coord",
		"titulo": "title", "descripcion": "description", "activo": "is_active", "active": "is_active", //nolint:misspell // Spanish
		"fecha": "date", "fechaalta": "date_in", "fechaentrada": "date_in",
		"estado": "build_status", "mesinicio": "start_month", "semanafin": "end_week",
		"tipo": "property_type", "tipoinmueble": "property_type", "tipologia": "typology_type",
		"tipoanuncio": "listing_type", "tipoconstruccion": "construction_type", "boundary": "boundary_id",
	}
	aliases := map[string]column{}
	for alias, name := range names {
		aliases[alias] = column{fieldIndex[name], fieldIndex[name]}
	}
	for i := range fields[1:] {
		aliases[foldName(fields[1+i].name)] = column{1 + i, 1 + i}
	}
	for _, both := range []string{"coordinates", "coordenadas", "coords"} {
		aliases[both] = column{fieldIndex["x_coord"], fieldIndex["y_coord"]}
	}
	return aliases
}()

// foldName makes names that people take for the same equal: letters and
// digits alone, in lower case, without accents.
func foldName(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case unicode.IsLetter(c), unicode.IsDigit(c):
			return unicode.ToLower(c)
		}
		return -1
	}, norm.NFD.String(name)) // an accent is a rune of its own then, and no letter
}

// columnNamed finds what a column holds by its name.
func columnNamed(name string) column {
	if strings.EqualFold(name, "_id") {
		return column{0, 0}
	}
	if c, ok := columnAliases[foldName(name)]; ok {
		return c
	}
	return column{-1, -1}
}

// parseCSV makes a row of a record. wrong says what is wrong with which
// column; skip is true for a row without an id.
func (r *rowReader) parseCSV(record []string) (row Row, wrong ValidationError, skip bool) {
	m := &row.Inmueble
	var got seen
	empty := false // the other_id is to be empty
	for i, c := range r.columns {
		text := record[i]
		if c.first < 0 || isNull(text) {
			continue
		}
		empty = empty || c.first == 1 && text == `\`
		var reason i18n.Text
		if c.first != c.last {
			reason = setCoordinates(m, text, r.opts.SwapXY)
		} else {
			reason = fields[c.first].parse(m, text)
		}
		if reason != "" {
			wrong = append(wrong, FieldError{r.columnOf[c.first], reason})
		}
		for f := c.first; f <= c.last; f++ {
			got.mark(f)
		}
	}
	if m.OtherID == "" && !empty && r.have&(1<<1) != 0 {
		return Row{}, nil, true
	}
	row.given = r.have // what is null in the file is to be null
	for _, e := range got.missing(1) {
		if i := fieldIndex[e.Field]; r.have&(1<<i) != 0 {
			wrong = append(wrong, FieldError{r.columnOf[i], e.Reason})
		}
	}
	return row, slices.Compact(wrong), false // a missing pair of coordinates is one thing
}

// lineJSON reads a line of NDJSON.
type lineJSON struct {
	row     Row
	bad     ValidationError
	unknown func(name string)
}

func (l *lineJSON) UnmarshalJSONFrom(dec *jsontext.Decoder) (err error) {
	l.row.given, l.bad, err = l.row.readJSON(dec, jsonReading{nullDefault: true, unknown: l.unknown})
	return err
}

// parseJSON likewise for a line of NDJSON. Whole rows must have what is
// required; parts can only change what there is.
func (r *rowReader) parseJSON(text []byte) (row Row, wrong ValidationError) {
	l := lineJSON{unknown: r.unknown}
	if err := web.Unmarshal(text, &l); err != nil {
		return Row{}, ValidationError{{"", "is not a JSON object with each member once"}}
	}
	wrong = l.bad
	if r.opts.OnDuplicate != MergeDuplicate {
		wrong = append(wrong, l.row.given.missing(1)...)
	}
	return l.row, wrong
}

// unknown notes a column or member that means nothing here.
func (r *rowReader) unknown(name string) {
	name = strings.ToValidUTF8(name, "\uFFFD")
	if len(r.report.UnknownColumns) < maxReported && !slices.Contains(r.report.UnknownColumns, name) &&
		name != nameOwner && name != nameCreatedAt && name != nameUpdatedAt {
		r.report.UnknownColumns = append(r.report.UnknownColumns, name)
	}
}

// complete gives a row what the file doesn't say, and judges it as a whole.
func (r *rowReader) complete(row *Row) ValidationError {
	m := &row.Inmueble
	if m.ID == "" {
		m.ID = r.madeID(m)
		r.report.MadeIDs++
	}
	m.Owner, m.CreatedAt, m.UpdatedAt = r.opts.Owner, stamp(r.opts.Now), stamp(r.opts.Now)
	wrong, _ := r.opts.Catalogues.Validate(row).(ValidationError) //nolint:errorlint // it returns nothing else
	for i := range wrong {
		if name := r.columnOf[fieldIndex[wrong[i].Field]]; name != "" {
			wrong[i].Field = name
		}
	}
	return wrong
}

// madeID makes the _id of a row that has none, of what the row says and of
// where it stands: the same file makes the same, so that it can be loaded
// twice, and resumed.
func (r *rowReader) madeID(m *Inmueble) string {
	h := sha256.New()
	h.Write(strconv.AppendInt(nil, int64(r.row()), 10))
	h.Write(m.appendStored([]byte{'\n'}))
	return hex.EncodeToString(h.Sum(nil)[:len(primitive.ObjectID{})])
}

// NewID makes an _id: 24 hexadecimal digits, a MongoDB ObjectID as the
// original's were. It begins with the time in seconds, so new inmuebles come
// last in the list.
func NewID() string { return primitive.NewObjectID().Hex() }

// isNull reports whether a value stands for none.
func isNull(text string) bool {
	if len(text) > 0 && len(text) < 64 && text[0] > ' ' && text[0] != 'n' && text[0] != 'N' {
		return false // by far the most
	}
	text = strings.TrimSpace(text)
	return text == "" || strings.EqualFold(text, "null") || strings.EqualFold(text, "none")
}

// A text that would be read as null is written with a backslash before it,
// and so is what would be read as that.

func escapeNull(text string) string {
	if isNull(strings.TrimLeft(text, `\`)) {
		return `\` + text
	}
	return text
}

func unescapeNull(text string) string {
	if strings.HasPrefix(text, `\`) && isNull(strings.TrimLeft(text, `\`)) {
		return text[1:]
	}
	return text
}

// parse sets the field from a value that isn't null. It returns what is wrong
// with it, or "".
func (f *field) parse(m *Inmueble, text string) i18n.Text {
	switch f.at(m).(type) {
	case *bool:
		v, ok := yesNo[strings.ToLower(strings.TrimSpace(text))]
		if !ok {
			return f.wants()
		}
		return f.setBool(m, v)
	case *string:
		switch f.name {
		case "_id", "other_id":
			literal, ok := strings.CutPrefix(text, `\`)
			switch {
			case ok:
				text = literal
			case f.name == "_id":
				text = strings.TrimSpace(text)
			default:
				text = strings.Map(keepAlphanumeric, text)
			}
		default:
			text = unescapeNull(text)
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

// setCoordinates sets both coordinates from "x,y", or from "y,x". With decimal
// commas there is a semicolon between, a space, or simply a third comma.
func setCoordinates(m *Inmueble, text string, swapped bool) i18n.Text {
	text = strings.Trim(text, " \t()[]")
	left, right, ok := strings.Cut(text, ";")
	if !ok {
		switch commas := strings.Count(text, ","); {
		case commas == 1 && !strings.ContainsAny(strings.TrimSpace(text), " \t"), commas == 1 && strings.Contains(text, "."):
			left, right, ok = strings.Cut(text, ",")
		case commas == 3 && strings.Count(text, ", ") == 0:
			i := strings.IndexByte(text, ',') + 1
			i += strings.IndexByte(text[i:], ',')
			left, right, ok = text[:i], text[i+1:], true
		case commas == 1 || commas == 3 && strings.Contains(text, ", "):
			if left, right, ok = strings.Cut(text, ", "); !ok || commas == 1 {
				left, right, ok = strings.Cut(text, ",")
			} else if commas == 3 && strings.Count(left, ",") != 1 {
				ok = false
			}
		default:
			left, right, ok = strings.Cut(text, " ")
		}
	}
	x, okX := parseNumber(left)
	y, okY := parseNumber(right)
	if !ok || !okX || !okY {
		return `must be two numbers, "x,y"`
	}
	if swapped {
		x, y = y, x
	}
	fields[fieldIndex["x_coord"]].setFloat(m, x)
	fields[fieldIndex["y_coord"]].setFloat(m, y)
	return ""
}

// parseNumber reads a finite decimal number, also one with a decimal comma:
// 3,5 and 1.234,5. strconv alone would also take 0x1p4, inf, nan and 1_000.
func parseNumber(text string) (float64, bool) {
	text = strings.TrimSpace(text)
	if whole, fraction, ok := strings.Cut(text, ","); ok {
		if strings.ContainsAny(fraction, ",.") || !thousands(whole) {
			return 0, false
		}
		text = strings.ReplaceAll(whole, ".", "") + "." + fraction
	}
	if strings.Trim(text, "0123456789+-.eE") != "" {
		return 0, false
	}
	v, err := strconv.ParseFloat(text, 64)
	return v, err == nil && !math.IsInf(v, 0)
}

// thousands reports whether dots in a whole number stand where they group
// thousands.
func thousands(whole string) bool {
	groups := strings.Split(whole, ".")
	for _, g := range groups[1:] {
		if len(g) != 3 {
			return false
		}
	}
	return true
}

// isDate reports whether a text is an ISO 8601 date or date-time.
func isDate(text string) bool {
	if len(text) < len(time.DateOnly) || text[4] != '-' {
		return false
	}
	if _, err := time.Parse(time.DateOnly, text[:len(time.DateOnly)]); err != nil {
		return false
	}
	if len(text) == len(time.DateOnly) {
		return true
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04Z07:00", "2006-01-02T15:04"} {
		if _, err := time.Parse(layout, strings.Replace(text, " ", "T", 1)); err == nil {
			return true
		}
	}
	return false
}
