package resourceserver

import (
	"bytes"
	"errors"
	"io"
)

// What is wrong with an array as such. Behind all but the first nothing more
// can be read.
var (
	errNoElement  = &reasonError{"has no value between two commas, or before the end"}
	errNoArray    = &reasonError{"is not in a JSON array, as the file must be"}
	errOpenArray  = &reasonError{"is cut off: the file ends inside the array"}
	errAfterArray = &reasonError{"stands behind the end of the array"}
)

// array is where a file that is one JSON array has been read to.
type array struct {
	begun, closed, over bool
	comma               bool // stands before what comes
}

// element reads one element of the array into raw and returns the line that
// it begins on. It looks for its end alone: what stands between is judged as
// a line of NDJSON is. So a file of any size needs memory for one element.
func (l *lines) element() (line int, err error) {
	l.raw = l.raw[:0]
	if l.array.over {
		return l.line + 1, io.EOF
	}
	c, err := l.visible()
	line = l.line + 1
	switch {
	case errors.Is(err, io.EOF) && l.array.closed:
		return line, io.EOF
	case errors.Is(err, io.EOF):
		return line, l.end(errOpenArray)
	case err != nil:
		return line, err
	case l.array.closed:
		return line, l.end(errAfterArray)
	case !l.array.begun && c != '[':
		return line, l.end(errNoArray)
	case !l.array.begun:
		l.array.begun = true
		_, _ = l.r.Discard(1) // it is in the buffer
		return l.element()
	case c == ']' && !l.array.comma:
		l.array.closed = true
		_, _ = l.r.Discard(1)
		return l.element()
	}
	err = l.value()
	if err == nil && len(l.raw) == 0 {
		err = errNoElement
	}
	return line, err
}

// end gives the rest of the file up.
func (l *lines) end(because error) error {
	l.array.over = true
	return because
}

// visible comes to the next character that isn't white space.
func (l *lines) visible() (byte, error) {
	for {
		if _, err := l.r.Peek(1); err != nil {
			return 0, err
		}
		window, _ := l.r.Peek(l.r.Buffered())
		rest := bytes.TrimLeft(window, " \t\r\n")
		white := window[:len(window)-len(rest)]
		l.line += bytes.Count(white, []byte("\n"))
		_, _ = l.r.Discard(len(white))
		if len(rest) > 0 {
			return rest[0], nil
		}
	}
}

// value reads up to the comma or bracket that ends an element, and takes that
// too. Of one that is too long it keeps the beginning.
func (l *lines) value() error {
	depth, quoted, escaped := 0, false, false
	for {
		if _, err := l.r.Peek(1); errors.Is(err, io.EOF) {
			return l.end(errOpenArray)
		} else if err != nil {
			return err
		}
		window, _ := l.r.Peek(l.r.Buffered())
		n, ended := 0, byte(0)
	scan:
		for ; n < len(window); n++ {
			switch c := window[n]; {
			case escaped:
				escaped = false
			case quoted:
				escaped, quoted = c == '\\', c != '"'
			case c == '"':
				quoted = true
			case c == '{', c == '[':
				depth++
			case depth == 0 && (c == ',' || c == ']'):
				ended = c
				break scan
			case c == '}', c == ']':
				depth = max(depth-1, 0)
			}
		}
		l.line += bytes.Count(window[:n], []byte("\n"))
		if len(l.raw) <= maxRow {
			l.raw = append(l.raw, window[:n]...)
		}
		if ended == 0 {
			_, _ = l.r.Discard(n)
			continue
		}
		_, _ = l.r.Discard(n + 1)
		l.array.comma, l.array.closed = ended == ',', ended == ']'
		l.raw = bytes.TrimRight(l.raw, " \t\r\n")
		if len(l.raw) > maxRow {
			return errLongRow
		}
		return nil
	}
}
