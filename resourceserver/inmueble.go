package resourceserver

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// Inmueble is one real-estate property. The meaning of the codes is the
// owner's; here they are numbers. A value that passed [Inmueble.Validate] can
// be stored by every [Store] and written as JSON.
type Inmueble struct {
	ID               string // made by the server, or taken from an import; never changes
	OtherID          string // the property's id in somebody else's system
	BuildStatus      int32
	IsActive         bool
	StartMonth       int32
	ConstructionType *int32
	DateDiff         int32
	Description      string
	DateIn           string
	PropertyType     int32
	EndWeek          int32
	TypologyType     int32
	XCoord, YCoord   float64 // degrees of WGS 84: x is the longitude, y the latitude
	BoundaryID       *int32
	Title            string
	ListingType      int32
	Date             string

	// Set by the server, never by a request.
	Owner     string    // sub of the token that made it; "" is nobody's, as after an import
	CreatedAt time.Time // UTC, whole milliseconds; zero when unknown, as in data older than this server
	UpdatedAt time.Time // likewise
}

// field is one member of an inmueble that a request or a file can set.
type field struct {
	name     string
	required bool // else it has a default, the zero value, which is not stored
	bound    int  // text: code points at most; coordinate: degrees either way
	doc      string

	// at points into m: *string, *int32, **int32 (nil is null), *bool or
	// *float64. The type of the pointer is the type of the field.
	at func(m *Inmueble) any
}

// fields is what an inmueble consists of, in the order of its JSON. Schema,
// validation, JSON, BSON and CSV all walk this one table. The first is the
// key, which the stores keep apart from the rest.
var fields = [...]field{
	{"_id", true, maxID, "Key, made by the server", func(m *Inmueble) any { return &m.ID }},
	{"other_id", true, 64, "The property's id in another system; an integer is kept as its digits", func(m *Inmueble) any { return &m.OtherID }},
	{"build_status", true, 0, "Code", func(m *Inmueble) any { return &m.BuildStatus }},
	{"is_active", true, 0, "Whether it is on the market", func(m *Inmueble) any { return &m.IsActive }},
	{"start_month", true, 0, "Code", func(m *Inmueble) any { return &m.StartMonth }},
	{"construction_type", false, 0, "Code, null when unknown", func(m *Inmueble) any { return &m.ConstructionType }},
	{"date_diff", false, 0, "Difference between the dates", func(m *Inmueble) any { return &m.DateDiff }},
	{"description", false, 20_000, "Free text", func(m *Inmueble) any { return &m.Description }},
	{"date_in", true, 64, "When it came in, as it was given", func(m *Inmueble) any { return &m.DateIn }},
	{"property_type", true, 0, "Code", func(m *Inmueble) any { return &m.PropertyType }},
	{"end_week", true, 0, "Code", func(m *Inmueble) any { return &m.EndWeek }},
	{"typology_type", true, 0, "Code", func(m *Inmueble) any { return &m.TypologyType }},
	{"x_coord", true, 180, "Longitude in degrees, WGS 84", func(m *Inmueble) any { return &m.XCoord }},
	{"y_coord", true, 90, "Latitude in degrees, WGS 84", func(m *Inmueble) any { return &m.YCoord }},
	{"boundary_id", false, 0, "Code of the area around it, null when unknown", func(m *Inmueble) any { return &m.BoundaryID }},
	{"title", false, 500, "One line of text", func(m *Inmueble) any { return &m.Title }},
	{"listing_type", true, 0, "Code", func(m *Inmueble) any { return &m.ListingType }},
	{"date", true, 64, "Date of the listing, as it was given", func(m *Inmueble) any { return &m.Date }},
}

// The members that only the server sets.
const (
	nameOwner     = "owner"
	nameCreatedAt = "created_at"
	nameUpdatedAt = "updated_at"
)

const maxID = 128 // code points of an _id

// fieldIndex finds a field by its name.
var fieldIndex = func() map[string]int {
	index := make(map[string]int, len(fields))
	for i := range fields {
		index[fields[i].name] = i
	}
	return index
}()

// ErrInvalid is what every [ValidationError] wraps.
var ErrInvalid = errors.New("resourceserver: not a valid inmueble")

// FieldError says what is wrong with one field, never repeating its value.
type FieldError struct {
	Field  string
	Reason i18n.Text
}

// reasonError is a reason as an error.
type reasonError struct{ reason i18n.Text }

func (e *reasonError) Error() string { return e.reason.String() }

// ValidationError lists everything that is wrong with one inmueble.
type ValidationError []FieldError

// Error joins the reasons.
func (e ValidationError) Error() string {
	var b strings.Builder
	b.WriteString(ErrInvalid.Error())
	for i, f := range e {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep + f.Field + " " + f.Reason.String())
	}
	return b.String()
}

// Unwrap makes errors.Is(err, ErrInvalid) hold.
func (e ValidationError) Unwrap() error { return ErrInvalid }

// Validate checks every field and returns nil or a [ValidationError]. It is
// the one rule for what may be stored: requests, imports and what comes back
// out of a database all pass it.
func (m *Inmueble) Validate() error {
	var bad ValidationError
	if !validID(m.ID) {
		bad = append(bad, FieldError{"_id", reasonID})
	}
	for i := range fields[1:] {
		f := &fields[1+i]
		if reason := f.check(m); reason != "" {
			bad = append(bad, FieldError{f.name, reason})
		}
	}
	if bad == nil {
		return nil
	}
	return bad
}

// check returns what is wrong with the field in m, or "".
func (f *field) check(m *Inmueble) i18n.Text {
	switch p := f.at(m).(type) {
	case *string:
		return checkText(*p, f.bound)
	case *float64:
		if !(math.Abs(*p) <= float64(f.bound)) { // also NaN
			return i18n.Textf("must be a number from -%d to %d", f.bound, f.bound)
		}
	}
	return "" // every int32 and bool is valid
}

// checkText wants text that everybody keeps as it is: many programs end one
// at a NUL, and what isn't well-formed UTF-8 has no JSON.
func checkText(s string, maxPoints int) i18n.Text {
	switch {
	case len(s) > maxPoints && utf8.RuneCountInString(s) > maxPoints:
		return i18n.Textf("must have at most %d characters", maxPoints)
	case !utf8.ValidString(s):
		return "must be valid Unicode text"
	case strings.IndexByte(s, 0) >= 0:
		return "must not contain the character U+0000"
	}
	return ""
}

var reasonID = i18n.Textf(`must be text of 1 to %d characters, without U+0000, and neither "." nor ".."`, maxID)

// validID reports whether an inmueble can have this _id. No URL can name "."
// or "..": clients resolve them away, percent-encoded or not (WHATWG URL).
func validID(id string) bool {
	return id != "" && id != "." && id != ".." && checkText(id, maxID) == ""
}

// atDefault reports whether the field is one that is not stored: null, or
// equal to its default.
func (f *field) atDefault(m *Inmueble) bool {
	if f.required {
		return false
	}
	switch p := f.at(m).(type) {
	case **int32:
		return *p == nil
	case *int32:
		return *p == 0
	case *string:
		return *p == ""
	}
	return false
}

// The setters take a value as some encoding has it. They return why it does
// not fit, or "". Ranges other than those of the type are Validate's.

func (f *field) setText(m *Inmueble, s string) i18n.Text {
	if p, ok := f.at(m).(*string); ok {
		*p = s
		return ""
	}
	return f.wants()
}

func (f *field) setBool(m *Inmueble, v bool) i18n.Text {
	if p, ok := f.at(m).(*bool); ok {
		*p = v
		return ""
	}
	return f.wants()
}

func (f *field) setInt(m *Inmueble, n int64) i18n.Text {
	fits := int64(int32(n)) == n //nolint:gosec // the comparison is the check
	switch p := f.at(m).(type) {
	case *int32:
		if fits {
			*p = int32(n) //nolint:gosec // it fits
			return ""
		}
	case **int32:
		if fits {
			v := int32(n) //nolint:gosec // it fits
			*p = &v
			return ""
		}
	case *float64:
		*p = float64(n)
		return ""
	case *string:
		if f.name == "other_id" {
			*p = strconv.FormatInt(n, 10)
			return ""
		}
	}
	return f.wants()
}

// setFloat takes whole numbers for integers, as JSON Schema does.
func (f *field) setFloat(m *Inmueble, v float64) i18n.Text {
	if p, ok := f.at(m).(*float64); ok {
		if v == 0 {
			v = 0 // -0 is equal, but is written otherwise
		}
		*p = v
		return ""
	}
	if v != math.Trunc(v) || math.Abs(v) > 1<<53 { // also NaN and the infinities
		return f.wants()
	}
	return f.setInt(m, int64(v))
}

func (f *field) setNull(m *Inmueble) i18n.Text {
	if p, ok := f.at(m).(**int32); ok {
		*p = nil
		return ""
	}
	return f.wants()
}

// wants is the reason when a value is not of the field's type.
func (f *field) wants() i18n.Text {
	switch f.at(&Inmueble{}).(type) {
	case *bool:
		return "must be true or false"
	case *int32:
		return "must be an integer of 32 bits"
	case **int32:
		return "must be an integer of 32 bits or null"
	case *float64:
		return "must be a number"
	}
	if f.name == "other_id" {
		return "must be text or an integer"
	}
	return "must be text"
}

// seen remembers which fields a document had.
type seen uint32

func (s *seen) mark(i int) { *s |= 1 << i }

// missing lists the required fields from the from-th on that were not there.
func (s seen) missing(from int) ValidationError {
	var bad ValidationError
	for i := from; i < len(fields); i++ {
		if fields[i].required && s&(1<<i) == 0 {
			bad = append(bad, FieldError{fields[i].name, "is required"})
		}
	}
	return bad
}

// stamp is a time as the stores keep it: MongoDB has whole milliseconds, and
// a time must come back as it was answered.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// The years 0 to 9999, which RFC 3339 can write, in Unix milliseconds.
const minMilli, maxMilli = -62_167_219_200_000, 253_402_300_799_999
