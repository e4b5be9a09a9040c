package audit

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// An exported log is text: one JSON object a line (NDJSON), with all that the
// chain is made of, so that a file can be verified without the database.

// line is an entry as it is exported.
type line struct {
	Log        string          `json:"log"`
	Seq        int64           `json:"seq"`
	At         time.Time       `json:"at"`
	Actor      string          `json:"actor"`
	Action     string          `json:"action"`
	Subject    string          `json:"subject"`
	Reason     string          `json:"reason"`
	Before     json.RawMessage `json:"before"`      // null for none
	After      json.RawMessage `json:"after"`       // null for none
	Origin     json.RawMessage `json:"origin"`      // null for none, or erased
	OriginSalt string          `json:"origin_salt"` // hexadecimal; empty where there is no origin
	OriginHash string          `json:"origin_hash"`
	Hash       string          `json:"hash"`
}

// AppendLine appends an entry of a log as it is exported, with a line break at
// the end. What is JSON in the entry stays as it is, byte by byte, for the
// hashes are of those bytes.
func AppendLine(b []byte, log string, e *Entry) ([]byte, error) {
	l := line{
		Log: log, Seq: e.Seq, At: e.At, Actor: e.Actor, Action: e.Action, Subject: e.Subject, Reason: e.Reason,
		Before: raw(e.Before), After: raw(e.After), Origin: raw(e.Origin), Hash: e.Hash.String(),
	}
	if e.OriginHash != (Hash{}) {
		l.OriginHash = e.OriginHash.String()
	}
	if e.Origin != "" {
		l.OriginSalt = hex.EncodeToString(e.OriginSalt[:])
	}
	out := bytes.NewBuffer(b)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return b, fmt.Errorf("audit: export: %w", err)
	}
	return out.Bytes(), nil
}

// raw is JSON as it is; text that is none, which nobody here writes, becomes a
// string, and no longer fits its hash.
func raw(text string) json.RawMessage {
	switch {
	case text == "":
		return json.RawMessage("null")
	case json.Valid([]byte(text)):
		return json.RawMessage(text)
	}
	quoted, _ := json.Marshal(text) // a string always can be
	return quoted
}

// maxLine bounds a line of an exported log.
const maxLine = 1 << 20

// VerifyFile verifies an exported log, the oldest entry first, and returns its
// name and where it ends. It begins with the first entry, or else after a head
// that was noted: after. known and each are as in [Log.Verify], and so is the
// error: it wraps [ErrBroken] and names the first entry that isn't as it was
// written.
func VerifyFile(file io.Reader, after, known *Head, each func(Entry) error) (log string, head Head, err error) {
	c := check{known: known}
	if after != nil {
		c.at = *after
	}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		name, e, err := parseLine(lines.Bytes())
		if err != nil {
			return c.log, c.at, fmt.Errorf("%w: line %d, after entry %d: %w", ErrBroken, n, c.at.Seq, err)
		}
		if c.log == "" {
			c.log = name
		} else if name != c.log {
			return c.log, c.at, fmt.Errorf("%w: line %d, after entry %d, is of another log", ErrBroken, n, c.at.Seq)
		}
		if err := c.entry(e); err != nil {
			return c.log, c.at, err
		}
		if each == nil {
			continue
		}
		if err := each(e); err != nil {
			return c.log, c.at, err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return c.log, c.at, fmt.Errorf("%w: the line after entry %d has more than %d bytes", ErrBroken, c.at.Seq, maxLine)
	}
	if err := lines.Err(); err != nil {
		return c.log, c.at, fmt.Errorf("audit: read: %w", err)
	}
	return c.log, c.at, c.end(c.at)
}

var errLine = errors.New("it is no entry")

// parseLine reads what AppendLine has written.
func parseLine(text []byte) (log string, e Entry, err error) {
	var l line
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil || dec.More() {
		return "", e, errLine
	}
	e = Entry{
		Seq: l.Seq, At: l.At, Actor: l.Actor, Action: l.Action, Subject: l.Subject, Reason: l.Reason,
		Before: unraw(l.Before), After: unraw(l.After), Origin: unraw(l.Origin),
	}
	for _, h := range []struct {
		to   []byte
		text string
		may  bool // be absent
	}{{e.Hash[:], l.Hash, false}, {e.OriginHash[:], l.OriginHash, true}, {e.OriginSalt[:], l.OriginSalt, true}} {
		sum, err := hex.DecodeString(h.text)
		if err != nil || len(sum) != len(h.to) && !(h.may && h.text == "") || h.text != strings.ToLower(h.text) {
			return "", e, errLine
		}
		copy(h.to, sum)
	}
	return l.Log, e, nil
}

// unraw takes raw back.
func unraw(raw json.RawMessage) string {
	if string(raw) == "null" {
		return ""
	}
	return string(raw)
}
