package resourceserver

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// lines reads a file row by row and keeps each as it was. encoding/csv would
// not: it takes the carriage returns out of quoted text, so that what was
// exported wouldn't come back as it is, and can't say what a bad row was.
type lines struct {
	r     *bufio.Reader
	comma byte
	line  int // of the file, read so far

	raw    []byte // the present row, line ends and all
	again  []byte // lines that a broken row had swallowed, to be read again
	fields []string

	array array // of a file that is one
}

const maxRow = 1 << 20 // bytes of a row: an unclosed quote must not take the whole file into memory

// What is wrong with a row as such.
var (
	errLongRow    = &reasonError{i18n.Textf("is longer than %d bytes", maxRow)}
	errOpenQuote  = &reasonError{"has a quoted value that is never closed"}
	errQuote      = &reasonError{"has a quote inside a quoted value that is not doubled"}
	errBareQuote  = &reasonError{"has a quote inside a value that is not quoted"}
	errFieldCount = &reasonError{"has more or fewer values than the header"}
)

// rowFault is what is wrong if err is about one row, so that the next can be
// read, or "".
func rowFault(err error) i18n.Text {
	if e, ok := errors.AsType[*reasonError](err); ok {
		return e.reason
	}
	return ""
}

// readLine appends the next line to raw, its end included. Of a line that is
// too long it keeps the beginning.
func (l *lines) readLine() error {
	l.line++
	if len(l.again) > 0 {
		end := bytes.IndexByte(l.again, '\n') + 1
		if end == 0 {
			end = len(l.again)
		}
		l.raw = append(l.raw, l.again[:end]...)
		l.again = l.again[end:]
		return nil
	}
	for n := 0; ; {
		part, err := l.r.ReadSlice('\n')
		n += len(part)
		if len(l.raw) <= maxRow {
			l.raw = append(l.raw, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && n > 0, err == nil:
			if len(l.raw) > maxRow {
				return errLongRow
			}
			return nil
		}
		l.line--
		return err
	}
}

// next reads one line that isn't empty into raw and returns its number.
func (l *lines) next() (line int, err error) {
	for {
		l.raw = l.raw[:0]
		if err := l.readLine(); err != nil {
			return l.line, err
		}
		if len(bytes.TrimRight(l.raw, "\r\n")) > 0 {
			return l.line, nil
		}
	}
}

// record reads one row of CSV (RFC 4180) and returns its fields, which are
// good until the next, and the line that it begins on. After a fault the rows
// behind it can be read: a broken quote spoils the line that it opens on.
func (l *lines) record() (fields []string, line int, err error) {
	if line, err = l.next(); err != nil {
		return nil, line, err
	}
	fields, err = l.split()
	if err != nil && rowFault(err) != "" {
		if first := bytes.IndexByte(l.raw, '\n') + 1; first > 0 && first < len(l.raw) {
			l.again = append(bytes.Clone(l.raw[first:]), l.again...)
			l.raw, l.line = l.raw[:first], line
		}
	}
	return fields, line, err
}

// split makes fields of raw, and reads on where a quoted one has a line end.
func (l *lines) split() ([]string, error) {
	l.fields = l.fields[:0]
	row := trimEnd(string(l.raw))
	if strings.IndexByte(row, '"') < 0 {
		for {
			i := strings.IndexByte(row, l.comma)
			if i < 0 {
				l.fields = append(l.fields, row)
				return l.fields, nil
			}
			l.fields, row = append(l.fields, row[:i]), row[i+1:]
		}
	}
	at := 0 // where the present field begins in raw
	for {
		rest := string(l.raw[at:])
		if !strings.HasPrefix(rest, `"`) {
			value := trimEnd(rest)
			i := strings.IndexByte(value, l.comma)
			if i >= 0 {
				value = value[:i]
			}
			if strings.IndexByte(value, '"') >= 0 {
				return nil, errBareQuote
			}
			l.fields = append(l.fields, value)
			if i < 0 {
				return l.fields, nil
			}
			at += i + 1
			continue
		}
		var value []byte
		from := at + 1 // what isn't in value yet
		for {
			i := bytes.IndexByte(l.raw[from:], '"')
			if i < 0 {
				value = append(value, l.raw[from:]...)
				from = len(l.raw)
				if err := l.readLine(); errors.Is(err, io.EOF) {
					return nil, errOpenQuote
				} else if err != nil {
					return nil, err
				}
				continue
			}
			value = append(value, l.raw[from:from+i]...)
			from += i + 1
			if from < len(l.raw) && l.raw[from] == '"' {
				value = append(value, '"')
				from++
				continue
			}
			break
		}
		l.fields = append(l.fields, string(value))
		switch end := trimEnd(string(l.raw[from:])); {
		case end == "":
			return l.fields, nil
		case end[0] != l.comma:
			return nil, errQuote
		}
		at = from + 1
	}
}

// trimEnd takes the line end off.
func trimEnd(row string) string {
	row = strings.TrimSuffix(row, "\n")
	return strings.TrimSuffix(row, "\r")
}

// row is the present row as it was, without its line end.
func (l *lines) row() string { return trimEnd(string(l.raw)) }
