package authserver

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the list's format, not a defence
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// BreachedList is a list of passwords that are known to attackers, as
// haveibeenpwned.com publishes it: the SHA-1 of each in upper-case
// hexadecimal, one a line, sorted, with or without a colon and a count behind.
// It is searched where it lies: forty gigabytes take some thirty reads.
type BreachedList struct {
	file io.ReaderAt
	size int64
}

// ErrBreachedList says that a file is no such list.
var ErrBreachedList = errors.New("authserver: not a sorted list of SHA-1 hashes")

const (
	sha1Hex     = 2 * sha1.Size
	maxListLine = sha1Hex + 32 // with a count and the line's end
)

// NewBreachedList makes sure that a file looks like such a list, at its
// beginning, end, and some places between.
func NewBreachedList(file io.ReaderAt, size int64) (*BreachedList, error) {
	l := &BreachedList{file, size}
	last := ""
	const samples = 64
	for i := range int64(samples) {
		_, _, hash, err := l.line(size / samples * i)
		if err != nil {
			return nil, err
		}
		if hash < last {
			return nil, ErrBreachedList
		}
		last = hash
	}
	return l, nil
}

// has reports whether a password is in the list.
func (l *BreachedList) has(password string) (bool, error) {
	if l == nil {
		return false, nil
	}
	sum := sha1.Sum([]byte(password)) //nolint:gosec // as above
	want := strings.ToUpper(hex.EncodeToString(sum[:]))
	for low, high := int64(0), l.size; low < high; { // a line that starts in [low, high) may hold it
		start, end, hash, err := l.line(low + (high-low)/2)
		switch {
		case err != nil:
			return false, err
		case hash == want:
			return true, nil
		case hash < want:
			low = end
		default:
			high = start
		}
	}
	return false, nil
}

// line is the line that holds the byte at a position: where it starts, where
// the next one does, and its hash in upper case.
func (l *BreachedList) line(position int64) (start, end int64, hash string, err error) {
	from := max(0, position-maxListLine)
	window := make([]byte, 2*maxListLine+1)
	n, err := l.file.ReadAt(window, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, "", fmt.Errorf("read the list of breached passwords: %w", err)
	}
	window = window[:n]
	at := int(position - from)
	if at >= n {
		return 0, 0, "", ErrBreachedList
	}
	first := bytes.LastIndexByte(window[:at], '\n') + 1
	length := bytes.IndexByte(window[at:], '\n')
	stop := at + length + 1
	if length < 0 {
		stop = n
	}
	text := strings.ToUpper(string(bytes.TrimRight(window[first:stop], "\r\n")))
	hash, _, _ = strings.Cut(text, ":")
	if _, err := hex.DecodeString(hash); err != nil || len(hash) != sha1Hex || length < 0 && from+int64(n) < l.size {
		return 0, 0, "", ErrBreachedList
	}
	return from + int64(first), from + int64(stop), hash, nil
}
