package i18n

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Text is a message: a constant sentence in English, or what [Textf] returns.
// The empty Text is no message.
//
// It is a string, so that a constant is one without ceremony and two can be
// compared; what Textf puts behind the sentence is for this package alone. As a
// string for people it is [Text.String], which fmt, log/slog and JSON use.
type Text string

// Or is an argument of [Textf] for %s: a list of alternatives, in English "a, b
// or c". The items are names and stand as they are.
type Or []string

// mark ends the sentence. No constant and no argument has one.
const mark = "\x00"

// Textf is a message with arguments. The format is a constant, of package fmt.
// An argument that is a Text is translated too; one that is an [Or] has the
// word between its last two items translated. Any other is a number or a bool,
// or counts as the string that fmt.Sprint makes of it.
func Textf(format string, args ...any) Text {
	if false { // has `go vet` look at the verbs
		_ = fmt.Sprintf(format, args...)
	}
	return Text(Keep(format, args...))
}

// Keep is [Textf] for a library that formats its messages by a function like
// fmt.Sprintf, whose strings come back to [Foreign].
func Keep(format string, args ...any) string {
	kept := make([]any, len(args))
	for i, a := range args {
		kept[i] = keep(a)
	}
	raw, err := json.Marshal(kept)
	if err != nil { // strings, numbers and bools: it can't
		panic(err)
	}
	return format + mark + string(raw)
}

// boxed holds the arguments that JSON has no type for.
type boxed struct {
	Text  *string   `json:"t,omitempty"` // with its own arguments
	Or    *[]string `json:"o,omitempty"`
	Float *string   `json:"f,omitempty"`
}

func keep(a any) any {
	switch a := a.(type) {
	case Text:
		raw := string(a)
		return boxed{Text: &raw}
	case Or:
		list := []string(a)
		return boxed{Or: &list}
	case error, fmt.Stringer:
		return fmt.Sprint(a)
	}
	switch v := reflect.ValueOf(a); {
	case v.CanInt():
		return v.Int()
	case v.CanUint():
		return v.Uint()
	case v.CanFloat():
		s := strconv.FormatFloat(v.Float(), 'g', -1, 64)
		return boxed{Float: &s}
	case v.Kind() == reflect.Bool:
		return v.Bool()
	}
	return fmt.Sprint(a)
}

// Parts are the English sentence and the arguments: string, bool, int64,
// float64, Text or Or. args is nil for a sentence that is no format.
func (t Text) Parts() (format string, args []any) {
	format, raw, ok := strings.Cut(string(t), mark)
	if !ok {
		return format, nil
	}
	var kept []json.RawMessage
	if err := json.Unmarshal([]byte(raw), &kept); err != nil { // not from Textf
		return format, nil
	}
	args = make([]any, len(kept))
	for i, k := range kept {
		args[i] = unkeep(k)
	}
	return format, args
}

func unkeep(raw json.RawMessage) any {
	if raw[0] == '{' {
		var b boxed
		_ = json.Unmarshal(raw, &b) // what keep wrote
		switch {
		case b.Text != nil:
			return Text(*b.Text)
		case b.Or != nil:
			return Or(*b.Or)
		case b.Float != nil:
			f, _ := strconv.ParseFloat(*b.Float, 64) // what keep wrote
			return f
		}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	_ = d.Decode(&v) // what keep wrote
	if n, ok := v.(json.Number); ok {
		if i, err := n.Int64(); err == nil {
			return i
		}
		return n.String() // beyond int64
	}
	return v
}

// String is the text in English.
func (t Text) String() string { return english.Say(t) }

// MarshalText writes the text in English.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Kept is a text that is stored as JSON: the arguments stay apart from the
// sentence, so that it can be said in any language when it is read again.
type Kept Text

// Text is what was kept.
func (k Kept) Text() Text { return Text(k) }

var english = &Language{Tag: English}

// Date is a day: "2 January 2006" in English.
func Date(t time.Time) Text {
	return Textf("%d %s %d", t.Day(), months[t.Month()-1], t.Year())
}

var months = [...]Text{
	"January", "February", "March", "April", "May", "June",
	"July", "August", "September", "October", "November", "December",
}

// Foreign makes a text of a sentence that another package has found: huma, the
// names of statuses, pkg/verify. The test of the catalogue knows who calls it,
// and where their sentences come from.
func Foreign(sentence string) Text { return Text(sentence) }
