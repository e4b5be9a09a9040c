package resourceserver

import (
	"encoding/base64"
	"errors"
	"unicode/utf8"
)

// A cursor says after which _id a page begins. Clients are given it whole, in
// a Link header, and told nothing about its form: it is a version byte and
// the _id, in base64url. It holds nothing that the page before didn't show
// and grants nothing, so it is not signed.
const cursorVersion = 1

var errCursor = errors.New("resourceserver: not a cursor of ours")

var cursorEncoding = base64.RawURLEncoding

func encodeCursor(after string) string {
	return cursorEncoding.EncodeToString(append([]byte{cursorVersion}, after...))
}

func decodeCursor(cursor string) (after string, err error) {
	b, err := cursorEncoding.DecodeString(cursor)
	if err != nil || len(b) < 2 || b[0] != cursorVersion || !utf8.Valid(b) {
		return "", errCursor
	}
	// The decoder skips line ends and spare bits: one page has one cursor.
	if after = string(b[1:]); encodeCursor(after) != cursor {
		return "", errCursor
	}
	return after, nil
}
