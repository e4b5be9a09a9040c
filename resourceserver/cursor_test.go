package resourceserver

import (
	"fmt"
	"math"
	"testing"
)

// TestCursor: what went in comes out, and no bit of it can be changed.
func TestCursor(t *testing.T) {
	key := []byte("a key of thirty-two bytes at all")
	for _, c := range []cursor{
		{},
		{order: "_id", after: []any{"a"}},
		{back: true, order: "date.desc,_id", after: []any{"2021-03-01", "ñ\x00🏠"}},
		{order: "x", after: []any{nil, int64(math.MinInt64), 1e-300, true, false, ""}, skip: 70_000},
	} {
		text := c.encode(key)
		got, err := decodeCursor(key, text)
		must(t, err)
		if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", c) {
			t.Errorf("got %#v, want %#v", got, c)
		}
		_, err = decodeCursor([]byte("another key"), text)
		wantErr(t, err, errCursor)
		for i := range text {
			changed := []byte(text)
			if changed[i]++; changed[i] == 'Z'+1 {
				changed[i] = 'A'
			}
			_, err := decodeCursor(key, string(changed))
			wantErr(t, err, errCursor)
		}
		for i := range text {
			_, err := decodeCursor(key, text[:i])
			wantErr(t, err, errCursor)
		}
	}
}

// FuzzCursor: a cursor is refused, or is the one that its content makes, even
// when the code is right.
func FuzzCursor(f *testing.F) {
	key := []byte("key")
	good := (&cursor{order: "date,_id", after: []any{"x", int64(7), 1.5, nil, true}}).encode(key)
	raw, err := cursorEncoding.DecodeString(good)
	must(f, err)
	f.Add(good, raw[:len(raw)-codeBytes])
	f.Add("AWF", []byte{cursorVersion, 0, 200, 200, 200, 1})
	f.Add("AX0\r", []byte{cursorVersion})
	f.Fuzz(func(t *testing.T, text string, payload []byte) {
		if _, err := decodeCursor(key, text); err != nil {
			wantErr(t, err, errCursor)
		}
		c, err := decodeCursor(key, cursorEncoding.EncodeToString(append(payload, cursorCode(key, payload)...)))
		if err == nil && len(c.after) > len(payload) {
			t.Errorf("%d keys of %d bytes", len(c.after), len(payload))
		}
	})
}
