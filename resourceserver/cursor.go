package resourceserver

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
)

// cursor says where a page of a list begins: in which order, read in which
// direction, behind which document. Clients are given it whole, in a Link
// header, and told nothing about its form:
//
//	version, direction, order, skip, keys … , code
//
// in base64url. The code is an HMAC by a key that the servers on one database
// share, so that nothing but what a server made is ever read: a store is not
// asked for a place that no document had. It grants nothing: who shows a
// cursor needs a token as ever, and the filter stands in the URL beside it.
type cursor struct {
	back  bool   // towards the first page
	order string // as query.Order.String writes it
	after []any  // nil, string, int64, float64 or bool; none: from the first
	skip  int
}

const cursorVersion = 2

// codeBytes is how much of the HMAC a cursor has.
const codeBytes = 16

var errCursor = errors.New("resourceserver: not a cursor of ours")

var cursorEncoding = base64.RawURLEncoding

// The kinds of keys in a cursor.
const (
	keyNull byte = iota
	keyText
	keyInt
	keyFloat
	keyFalse
	keyTrue
)

func (c *cursor) encode(key []byte) string {
	b := []byte{cursorVersion, 0}
	if c.back {
		b[1] = 1
	}
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	text(c.order)
	b = binary.AppendUvarint(b, uint64(c.skip)) //nolint:gosec // never negative
	for _, v := range c.after {
		switch v := v.(type) {
		case string:
			b = append(b, keyText)
			text(v)
		case []byte: // SQLite's word for text that it isn't sure about
			b = append(b, keyText)
			text(string(v))
		case int64:
			b = binary.AppendVarint(append(b, keyInt), v)
		case float64:
			b = binary.BigEndian.AppendUint64(append(b, keyFloat), math.Float64bits(v))
		case bool:
			if v {
				b = append(b, keyTrue)
			} else {
				b = append(b, keyFalse)
			}
		default:
			b = append(b, keyNull)
		}
	}
	return cursorEncoding.EncodeToString(append(b, cursorCode(key, b)...))
}

func cursorCode(key, b []byte) []byte {
	mac := hmac.New(sha256.New, key)
	_, _ = mac.Write(b) // a hash takes everything
	return mac.Sum(nil)[:codeBytes]
}

// decodeCursor reads a cursor that was made with this key, or returns
// errCursor.
func decodeCursor(key []byte, text string) (cursor, error) {
	b, err := cursorEncoding.DecodeString(text)
	// The decoder skips line ends and spare bits: one page has one cursor.
	if err != nil || len(b) < 2+codeBytes || cursorEncoding.EncodeToString(b) != text {
		return cursor{}, errCursor
	}
	b, code := b[:len(b)-codeBytes], b[len(b)-codeBytes:]
	if !hmac.Equal(code, cursorCode(key, b)) || b[0] != cursorVersion {
		return cursor{}, errCursor
	}
	r := bytes.NewReader(b[2:])
	c := cursor{back: b[1] == 1}
	readText := func() string {
		n, err := binary.ReadUvarint(r)
		if err != nil || n > uint64(r.Len()) { //nolint:gosec // a length
			return ""
		}
		s := make([]byte, n)
		_, _ = r.Read(s) // there are n
		return string(s)
	}
	c.order = readText()
	skip, _ := binary.ReadUvarint(r)
	c.skip = int(skip) //nolint:gosec // we wrote it
	for r.Len() > 0 {
		kind, _ := r.ReadByte()
		switch kind {
		case keyText:
			c.after = append(c.after, readText())
		case keyInt:
			n, _ := binary.ReadVarint(r)
			c.after = append(c.after, n)
		case keyFloat:
			var bits [8]byte
			_, _ = r.Read(bits[:])
			c.after = append(c.after, math.Float64frombits(binary.BigEndian.Uint64(bits[:])))
		case keyFalse, keyTrue:
			c.after = append(c.after, kind == keyTrue)
		default:
			c.after = append(c.after, nil)
		}
	}
	return c, nil
}
