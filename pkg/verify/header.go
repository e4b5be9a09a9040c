package verify

import (
	"encoding/base64"
	"fmt"
	"strings"
)

const (
	// DefaultMaxTokenBytes is the largest token looked at. Ours have about
	// 700 bytes; web servers refuse header lines of 8 to 16 KiB anyway.
	DefaultMaxTokenBytes = 16 << 10

	// maxKeyID is the longest kid, in bytes. A thumbprint has 43. It bounds
	// what a made-up kid can make us remember.
	maxKeyID = 256
)

// compact is a token taken apart; its fields are parts of one buffer.
type compact struct {
	header    []byte // still base64url
	signed    []byte // what the signature is over: header "." payload, as they came
	payload   string // decoded
	signature []byte // decoded
}

// split takes a compact JWS apart (RFC 7515 §7.1). Its parts must be canonical
// base64url: no padding, no white space, no set bits after the last byte. Else
// one token could be written in several ways, and a list of used or revoked
// tokens be passed by.
func split(raw string) (compact, error) {
	first, second := -1, -1
	for i := range len(raw) {
		switch c := raw[i]; {
		case base64url[c]:
		case c != '.':
			return compact{}, fmt.Errorf("%w: a character that is not base64url", ErrMalformed)
		case first < 0:
			first = i
		case second < 0:
			second = i
		default:
			return compact{}, fmt.Errorf("%w: more than three parts", ErrMalformed)
		}
	}
	switch {
	case second < 0:
		return compact{}, fmt.Errorf("%w: fewer than three parts", ErrMalformed)
	case first == 0, second == first+1, second == len(raw)-1:
		return compact{}, fmt.Errorf("%w: an empty part", ErrMalformed)
	}
	// One buffer for the token as it came, the payload and the signature.
	b := make([]byte, len(raw), 2*len(raw))
	copy(b, raw)
	c := compact{header: b[:first], signed: b[:second]}
	payload, err := decode(b[len(raw):len(raw):cap(b)], b[first+1:second])
	if err != nil {
		return compact{}, err
	}
	c.payload = string(payload)
	end := len(raw) + len(payload)
	if c.signature, err = decode(b[end:end:cap(b)], b[second+1:]); err != nil {
		return compact{}, err
	}
	return c, nil
}

// base64url says which bytes are of the alphabet (RFC 4648 §5). It is asked
// for every byte because package encoding/base64 reads past line ends.
var base64url = func() (set [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		set[c] = true
	}
	return set
}()

var canonical = base64.RawURLEncoding.Strict()

// decode appends what part stands for to dst.
func decode(dst, part []byte) ([]byte, error) {
	out, err := canonical.AppendDecode(dst, part)
	if err != nil {
		return nil, fmt.Errorf("%w: a part is not canonical base64url", ErrMalformed)
	}
	return out, nil
}

// header is what we read of a JOSE header. Everything else in it is ignored:
// jwk, jku, x5u and x5c above all, since a key that comes with the token, or
// from where the token says, proves nothing (RFC 8725 §3.10).
type header struct {
	alg, typ, kid string
	critical      bool
}

// parseHeader reads a decoded header.
func parseHeader(s string) (header, error) {
	var h header
	r := reader{s: s}
	err := r.object(func(name string) (err error) {
		switch name {
		case "alg":
			h.alg, err = r.str()
		case "typ":
			h.typ, err = r.str()
		case "kid":
			h.kid, err = r.str()
		case "crit", "b64":
			h.critical = true
			err = r.value()
		default:
			err = r.value()
		}
		return err
	})
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return header{}, wrap(ErrMalformed, err)
	}
	return h, nil
}

// mediaType brings a typ into the form in which two can be compared: lower
// case, without "application/" where nothing else has a slash (RFC 7515
// §4.1.9). RFC 9068 §4 wants both "at+jwt" and "application/at+jwt" taken.
func mediaType(typ string) string {
	typ = strings.ToLower(typ)
	if rest, ok := strings.CutPrefix(typ, "application/"); ok && !strings.Contains(rest, "/") {
		return rest
	}
	return typ
}
