package verify

import (
	"maps"
	"sync/atomic"
)

// What an attacker can make grow, and its bounds. The memory of a verifier
// under a flood of made-up tokens is the sum of these and of its [pace.Gate].

const (
	maxHeaders     = 64
	maxHeaderBytes = 1024
)

// headerCache maps a header, as it stands in the token, to the key that it
// names. An issuer writes one header per key, so all checks of a header need
// be made only once. A header enters only behind a good signature: forgeries
// can neither fill it nor be found in it. It belongs to one snapshot's set,
// and to the options of one verifier.
type headerCache struct {
	known atomic.Pointer[map[string]*key]
}

func (c *headerCache) get(header []byte) *key {
	known := c.known.Load()
	if known == nil {
		return nil
	}
	return (*known)[string(header)]
}

// add keeps header unless the cache is full. Two at the same time may lose
// one; the next token brings it again.
func (c *headerCache) add(header []byte, k *key) {
	old := c.known.Load()
	var next map[string]*key
	if old != nil {
		if len(*old) >= maxHeaders {
			return
		}
		next = maps.Clone(*old)
	} else {
		next = make(map[string]*key)
	}
	if len(header) > maxHeaderBytes {
		return
	}
	next[string(header)] = k
	c.known.CompareAndSwap(old, &next)
}
