package verify

import "testing"

func TestHeaderCacheIsBounded(t *testing.T) {
	var c headerCache
	for i := range 3 * maxHeaders {
		c.add([]byte{byte(i)}, &key{})
	}
	c.add(make([]byte, maxHeaderBytes+1), &key{})
	if n := len(*c.known.Load()); n != maxHeaders {
		t.Errorf("%d headers, want %d", n, maxHeaders)
	}
}
