package resourceserver

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
)

// An entity tag names what a representation says, byte for byte (RFC 9110
// §8.8.3). It is drawn from the content alone: a counter would stand still
// when another program changes a document, and a client would then overwrite
// what it has never seen.

// etagBytes is how much of the hash a tag has. 128 bits keep even who can
// choose documents from finding two of one tag.
const etagBytes = 16

// etagOf is the strong entity tag of a representation, with its quotes.
func etagOf(representation []byte) string {
	sum := sha256.Sum256(representation)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:etagBytes]) + `"`
}

// ETag is the inmueble's entity tag, with its quotes: that of its JSON.
func (m *Inmueble) ETag() string { return etagOf(m.AppendJSON(nil)) }

// pageTags makes the entity tags of pages, which are some fifty times as long
// as a document: SHA-256 of one would be a tenth of what a list costs. A hash
// for speed, such as xxHash, has collisions that anybody can make, and who
// stores documents could have a reader keep an old page. So it is a universal
// hash under a key that nobody outside has, of GCM (NIST SP 800-38D), for
// which processors have instructions. It is used without its nonce: equal
// pages are to have equal tags. Of such sums several would tell the key, so
// none is shown, but what AES makes of it under another key, which tells
// whether two are equal, and no more.
type pageTags struct {
	hash cipher.AEAD
	veil cipher.Block
}

// newPageTags draws the keys from one that the servers on a database share.
func newPageTags(shared []byte) (*pageTags, error) {
	const size = 32 // of an AES-256 key
	keys, err := hkdf.Key(sha256.New, shared, nil, "urbandata entity tags of pages", 2*size)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(keys[:size])
	if err != nil {
		return nil, err
	}
	t := &pageTags{}
	if t.hash, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	t.veil, err = aes.NewCipher(keys[size:])
	return t, err
}

// of is the strong entity tag of a page, with its quotes.
func (t *pageTags) of(page []byte) string {
	var nonce [12]byte
	sum := t.hash.Seal(make([]byte, 0, aes.BlockSize), nonce[:], nil, page)
	t.veil.Encrypt(sum, sum)
	return `"` + base64.RawURLEncoding.EncodeToString(sum) + `"`
}

// errTags is returned for a header that is no list of entity tags.
var errTags = &reasonError{`must be * or entity tags in quotes, such as "x", with , between`}

// patternTags is what parseTags reads, as an expression.
const patternTags = `^[ \t]*(\*|(W/)?"[^\x00-\x20\x7f"]*"([ \t]*,[, \t]*(W/)?"[^\x00-\x20\x7f"]*")*[ \t]*(,[, \t]*)?)?[ \t]*$`

// tagSet is what an If-Match or If-None-Match lists. The zero set was not
// given.
type tagSet struct {
	any  bool
	tags []string // with quotes and W/, as they came
}

func (t tagSet) given() bool { return t.any || t.tags != nil }

// parseTags reads the field's value (RFC 9110 §8.8.3 and §13.1). "" is not
// given.
func parseTags(header string) (tagSet, error) {
	rest := strings.Trim(header, " \t")
	if rest == "" {
		return tagSet{}, nil
	}
	if rest == "*" {
		return tagSet{any: true}, nil
	}
	var set tagSet
	for rest != "" {
		opaque := strings.TrimPrefix(rest, "W/")
		if !strings.HasPrefix(opaque, `"`) {
			return tagSet{}, errTags
		}
		end := strings.IndexByte(opaque[1:], '"')
		if end < 0 || strings.IndexFunc(opaque[1:end+1], func(c rune) bool { return c <= ' ' || c == 0x7f }) >= 0 {
			return tagSet{}, errTags
		}
		size := len(rest) - len(opaque) + end + 2
		set.tags = append(set.tags, rest[:size])
		rest = strings.TrimLeft(rest[size:], " \t")
		if rest == "" {
			break
		}
		if rest[0] != ',' {
			return tagSet{}, errTags
		}
		rest = strings.TrimLeft(rest, ", \t") // a list may have empty elements (§5.6.1.2)
	}
	return set, nil
}

// strong reports whether the set has the tag by strong comparison, in which a
// weak tag equals nothing (§8.8.3.2).
func (t tagSet) strong(tag string) bool { return t.any || slices.Contains(t.tags, tag) }

// weak likewise by weak comparison. tag is strong.
func (t tagSet) weak(tag string) bool {
	return t.strong(tag) || slices.Contains(t.tags, "W/"+tag)
}

// Match is a condition on what is stored: the If-Match and If-None-Match of a
// change. The zero Match always holds.
type Match struct{ only, never tagSet }

// ParseMatch reads both headers; "" is none. The error names what is wrong
// with header, the one that it is about.
func ParseMatch(ifMatch, ifNoneMatch string) (m Match, header string, err error) {
	if m.only, err = parseTags(ifMatch); err != nil {
		return Match{}, "If-Match", err
	}
	if m.never, err = parseTags(ifNoneMatch); err != nil {
		return Match{}, "If-None-Match", err
	}
	return m, "", nil
}

// looks reports whether the condition depends on the document's content: an
// If-Match of * holds for every document that exists.
func (m Match) looks() bool { return m.only.tags != nil || m.never.given() }

// holds reports whether a stored document fulfils the condition. What isn't
// readable has no tag: nobody can have seen it.
func (m Match) holds(stored *Inmueble, readable bool) bool {
	if !m.looks() {
		return true
	}
	tag := ""
	if readable {
		tag = stored.ETag()
	}
	if m.only.given() && !m.only.strong(tag) {
		return false
	}
	return !m.never.given() || !m.never.weak(tag)
}
