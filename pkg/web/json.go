package web

import (
	"errors"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// maxDepth is how deep a body may nest. Nothing here needs more than three.
const maxDepth = 64

// jsonFormat reads and writes JSON. Reading is strict: names match in their
// exact case, no name twice (RFC 8259 §4 leaves that open, and two readers
// that choose differently are a hole), valid UTF-8 without lone surrogates,
// no number beyond float64, at most maxDepth levels.
var jsonFormat = huma.Format{
	Marshal: func(w io.Writer, v any) error {
		if raw, ok := v.(jsontext.Value); ok { // rendered already
			_, err := w.Write(raw)
			return err
		}
		return json.MarshalWrite(w, v, json.FormatNilSliceAsNull(false))
	},
	Unmarshal: Unmarshal,
}

func marshal(v any) ([]byte, error) { return json.Marshal(v) }

// decodeOptions accept 169.0 where an integer is wanted, as JSON Schema does.
var decodeOptions = json.WithUnmarshalers(json.JoinUnmarshalers(
	json.UnmarshalFromFunc(integer[int]),
	json.UnmarshalFromFunc(integer[int32]),
	json.UnmarshalFromFunc(integer[int64]),
))

// Unmarshal reads strict JSON into v. Its error names the place, never the
// value.
func Unmarshal(data []byte, v any) error {
	if tooDeep(data) {
		return &decodeError{"", i18n.Textf("is nested more than %d levels deep", maxDepth)}
	}
	err := json.Unmarshal(data, v, decodeOptions)
	if err == nil {
		return nil
	}
	var syntactic *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		if errors.As(err, &syntactic) {
			return &decodeError{string(syntactic.JSONPointer), "stands there twice"}
		}
		return &decodeError{"", "has a member twice"}
	case errors.As(err, &syntactic):
		return &decodeError{
			string(syntactic.JSONPointer),
			i18n.Textf("is not valid JSON after byte %d", syntactic.ByteOffset),
		}
	case errors.As(err, &semantic):
		reason := i18n.Text("is not of the type wanted here")
		if semantic.JSONKind == '0' {
			reason = "is not a number of the kind or size wanted here"
		}
		return &decodeError{string(semantic.JSONPointer), reason}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &decodeError{"", "ends too early"}
	}
	return &decodeError{"", "can't be read as JSON"}
}

// integer reads a JSON number that is a whole number, however it is written.
func integer[T int | int32 | int64](dec *jsontext.Decoder, v *T) error {
	if dec.PeekKind() != '0' {
		return errors.ErrUnsupported // null, or an error that the decoder words itself
	}
	raw, err := dec.ReadValue()
	if err != nil {
		return err
	}
	text := string(raw)
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && int64(T(n)) == n {
		*v = T(n)
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 || int64(T(f)) != int64(f) {
		return &json.SemanticError{JSONKind: '0', Err: errors.New("not an integer of this size")}
	}
	*v = T(f)
	return nil
}

// tooDeep reports whether data nests deeper than maxDepth, before anything
// recursive reads it. Data that isn't JSON may be judged either way.
func tooDeep(data []byte) bool {
	depth, inString, escaped := 0, false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped = c == '\\'
			inString = c != '"'
		case c == '"':
			inString = true
		case c == '{', c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}', c == ']':
			depth--
		}
	}
	return false
}

// decodeError is a place and a reason. huma keeps only an error's text, so
// the text carries both, and splitDecodeError takes them apart again.
type decodeError struct {
	pointer string
	reason  i18n.Text
}

const decodeMark = "\x00" // can't stand in a JSON Pointer that we made from valid text without being escaped first

func (e *decodeError) Error() string {
	return decodeMark + strings.ReplaceAll(e.pointer, decodeMark, "") + decodeMark + string(e.reason)
}

func splitDecodeError(text string) (pointer string, reason i18n.Text, ok bool) {
	rest, ok := strings.CutPrefix(text, decodeMark)
	if !ok {
		return "", "", false
	}
	pointer, text, ok = strings.Cut(rest, decodeMark)
	return pointer, i18n.Foreign(text), ok
}
