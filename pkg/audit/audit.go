// Package audit keeps append-only logs of who changed what, and why, in which
// each entry is bound to the one before it by a hash. Whoever edits an entry,
// takes one out, puts one in or changes their order is found by [Log.Verify].
//
//	zeros ──▶ entry 1 ──▶ entry 2 ──▶ … ──▶ entry n = head
//	           hash 1 = SHA-256(log, zeros,  entry 1)
//	                      hash 2 = SHA-256(log, hash 1, entry 2)
//
// A database holds several logs, each a chain of its own, so that one that is
// written often doesn't hold up another: keys has "keys", accounts have
// "accounts".
//
// # What may be erased
//
// An entry may say where its act came from: a network, a device. That is a
// person's, and has to go when the person asks or after a time, while the
// entry stays. So the origin is kept apart, and the chain has a hash of it with
// a random salt. With the origin goes the salt, and then the hash tells
// nothing; until then Verify compares the two.
//
// # What it can't tell
//
// The hashes are made without a secret: who can write to the database can
// write the whole chain anew, or take away its end and set the head back. So
// note the head, which Verify returns, somewhere else now and then, and give
// it to a later Verify: that history is then fixed. What was cut off the end
// since the last note is found only by what the entries are about; package
// keys compares the version of its ring.
//
// # Use
//
// Append is called within the transaction that makes the change, so there is
// no change without its entry and no entry without its change:
//
//	log := audit.NewLog(db, "keys")
//	err := log.Append(ctx, tx, audit.Entry{At: now, Actor: "ana@host", Action: "key.revoked", Subject: kid, …})
//	head, err := log.Verify(ctx, nil, func(e audit.Entry) error { … })
//
// Append holds the end of the chain until tx commits. Where many write at once,
// and hold rows of their own, Enqueue is called in its place: it waits for
// nobody, and the entry is as durable. Where the change is one statement,
// QueueSQL makes the two one. Settle chains what is queued, some moments later:
//
//	act, entry ──▶ audit_queue ──Settle──▶ audit_entries, audit_origins
package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrBroken says that a log isn't as it was written. The error around it
	// names the first entry that isn't.
	ErrBroken = errors.New("audit: the log has been tampered with")

	// ErrHead says that a text is not a head.
	ErrHead = errors.New("audit: not a head")
)

// Entry is one change. Text is UTF-8 and holds no secret.
type Entry struct {
	Seq     int64     // 1, 2, 3, … set by Append
	At      time.Time // UTC, in whole milliseconds
	Actor   string    // who
	Action  string    // what was done, such as "key.revoked"
	Subject string    // to what: an id
	Reason  string    // why; may be empty
	Before  string    // what it was, as JSON; empty when it was made
	After   string    // what it became, as JSON; empty when it is gone
	Hash    Hash      // of this entry and all before it; set by Append

	Origin     string   // where it came from, as JSON; empty for none, or erased
	OriginOf   string   // whose the origin is: an id for Forget; not part of the chain
	OriginSalt [16]byte // set by Append
	OriginHash Hash     // of salt and origin; zero when there never was an origin
}

// bind makes the hash of an origin that has none yet.
func (e *Entry) bind() {
	if e.Origin != "" && e.OriginHash == (Hash{}) {
		_, _ = rand.Read(e.OriginSalt[:]) // never fails
		e.OriginHash = e.originHash()
	}
}

func (e *Entry) originHash() Hash {
	return sha256.Sum256(append(e.OriginSalt[:], e.Origin...))
}

// Hash is a SHA-256 sum.
type Hash [sha256.Size]byte

// String is the hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText is String, for JSON.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// Head is where a log ends: the number of its last entry and its hash. Whoever
// knows a head knows whether anything up to there has been changed.
type Head struct {
	Seq  int64
	Hash Hash
}

// String is the head as ParseHead reads it: 42:9f86d08…
func (h Head) String() string { return strconv.FormatInt(h.Seq, 10) + ":" + h.Hash.String() }

// ParseHead reads what [Head.String] has written. The error wraps [ErrHead].
func ParseHead(text string) (Head, error) {
	number, sum, _ := strings.Cut(text, ":")
	seq, err := strconv.ParseInt(number, 10, 64)
	raw, hexErr := hex.DecodeString(sum)
	if err != nil || seq < 0 || hexErr != nil || len(raw) != sha256.Size {
		return Head{}, fmt.Errorf("%w: a number, a colon and 64 hexadecimal digits are wanted", ErrHead)
	}
	return Head{seq, Hash(raw)}, nil
}

// next gives an entry its place after a head, and returns the new head.
func (h Head) next(log string, e *Entry) Head {
	e.Seq = h.Seq + 1
	e.At = e.At.UTC().Truncate(time.Millisecond)
	e.bind()
	e.Hash = e.sum(log, h.Hash)
	return Head{e.Seq, e.Hash}
}

// sum is the hash of an entry that comes after another. Each part goes in with
// its length before it, so that no two entries have the same text.
func (e *Entry) sum(log string, previous Hash) Hash {
	h := sha256.New()
	part := func(b []byte) {
		_ = binary.Write(h, binary.BigEndian, uint64(len(b))) // a hash takes everything
		_, _ = h.Write(b)
	}
	// Entries without an origin are as they were before there were origins.
	if e.OriginHash == (Hash{}) {
		part([]byte("urbandata audit 1"))
	} else {
		part([]byte("urbandata audit 2"))
		part(e.OriginHash[:])
	}
	part([]byte(log))
	part(previous[:])
	part(binary.BigEndian.AppendUint64(nil, uint64(e.Seq))) //nolint:gosec // a bit pattern
	part(binary.BigEndian.AppendUint64(nil, uint64(e.At.UnixMilli())))
	for _, text := range []string{e.Actor, e.Action, e.Subject, e.Reason, e.Before, e.After} {
		part([]byte(text))
	}
	return Hash(h.Sum(nil))
}

// check verifies a chain entry by entry.
type check struct {
	log   string
	known *Head // one that was noted; nil if none
	at    Head  // verified up to here
}

// entry verifies the next entry.
func (c *check) entry(e Entry) error {
	if e.Seq != c.at.Seq+1 {
		return fmt.Errorf("%w: after entry %d comes entry %d", ErrBroken, c.at.Seq, e.Seq)
	}
	if e.sum(c.log, c.at.Hash) != e.Hash {
		return fmt.Errorf("%w: entry %d isn't what was written, or doesn't follow entry %d", ErrBroken, e.Seq, c.at.Seq)
	}
	if e.Origin != "" && e.originHash() != e.OriginHash {
		return fmt.Errorf("%w: the origin of entry %d isn't what was written", ErrBroken, e.Seq)
	}
	c.at = Head{e.Seq, e.Hash}
	if c.known != nil && c.known.Seq == e.Seq && c.known.Hash != e.Hash {
		return fmt.Errorf("%w: entry %d isn't the one whose head was noted; the log was written anew", ErrBroken, e.Seq)
	}
	return nil
}

// end verifies that the chain ends at the head that is stored beside it.
func (c *check) end(stored Head) error {
	switch {
	case stored != c.at:
		return fmt.Errorf("%w: it ends with entry %d, and its head is entry %d", ErrBroken, c.at.Seq, stored.Seq)
	case c.known != nil && c.known.Seq > c.at.Seq:
		return fmt.Errorf("%w: it ends with entry %d, and entry %d has been there", ErrBroken, c.at.Seq, c.known.Seq)
	}
	return nil
}
