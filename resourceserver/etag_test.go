package resourceserver

import (
	"bytes"
	"strings"
	"testing"
)

// TestPageTags: equal pages have equal tags on every server of a database, and
// no two others have, however near; nobody makes them without the key.
func TestPageTags(t *testing.T) {
	tags := func(key string) *pageTags {
		made, err := newPageTags([]byte(key))
		must(t, err)
		return made
	}
	one, same, other := tags("a"), tags("a"), tags("b")
	seen := map[string]string{}
	for _, size := range []int{0, 1, 15, 16, 17, 2000} {
		for _, fill := range []string{"\x00", "x"} {
			page := []byte(strings.Repeat(fill, size))
			for at := -1; at < size; at++ {
				changed := bytes.Clone(page)
				if at >= 0 {
					changed[at] ^= 1
				}
				tag := one.of(changed)
				if first, met := seen[tag]; met && first != string(changed) {
					t.Fatalf("%q and %q are both %s", first, changed, tag)
				}
				seen[tag] = string(changed)
				if len(tag) != len(etagOf(nil)) || tag[0] != '"' {
					t.Fatalf("%s is no strong tag", tag)
				}
				if same.of(changed) != tag || other.of(changed) == tag {
					t.Fatalf("%s is not the key's", tag)
				}
			}
		}
	}
}

// TestTagOfTheOnly: the only row of a list, as an object, has the tag that GET
// by its id gives, so that it can be changed on condition.
func TestTagOfTheOnly(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	made := c.do("POST", "/inmuebles", body()).want(201)
	only := c.with("Accept", typeObject).do("GET", "/inmuebles?limit=1", "")
	if got, want := only.Header().Get("ETag"), made.Header().Get("ETag"); got != want {
		t.Errorf("the object's tag is %s, want %s", got, want)
	}
	page := c.do("GET", "/inmuebles?limit=1", "").want(200).Header().Get("ETag")
	c.with("If-None-Match", page).do("GET", "/inmuebles?limit=1", "").want(304)
	c.do("PATCH", made.Header().Get("Location"), `{"title":"another"}`).want(200)
	c.with("If-None-Match", page).do("GET", "/inmuebles?limit=1", "").want(200)
}
