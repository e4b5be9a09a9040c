package verify

import (
	"net/http"
	"net/url"
	"testing"
	"time"
)

func TestFreshness(t *testing.T) {
	for _, tc := range []struct {
		control []string
		age     string
		want    time.Duration
		ok      bool
	}{
		{nil, "", 0, false},
		{[]string{""}, "10", 0, false},
		{[]string{"public"}, "", 0, false},
		{[]string{"public, max-age=300"}, "", 300 * time.Second, true},
		{[]string{"public", "max-age=300"}, "", 300 * time.Second, true},
		{[]string{"Max-Age = 300"}, "", 300 * time.Second, true},
		{[]string{`max-age="300"`}, "", 300 * time.Second, true},
		{[]string{"max-age=300"}, "100", 200 * time.Second, true},
		{[]string{"max-age=300"}, "1000", 0, true},
		{[]string{"max-age=300"}, "soon", 300 * time.Second, true},
		{[]string{"max-age=300, max-age=60"}, "", 60 * time.Second, true},
		{[]string{"max-age=-1"}, "", 0, true},
		{[]string{"max-age=1.5"}, "", 0, true},
		{[]string{"max-age"}, "", 0, true},
		{[]string{"max-age=99999999999999999999"}, "", maxDelta * time.Second, true},
		{[]string{"max-age=300, no-store"}, "", 0, true},
		{[]string{"no-cache, max-age=300"}, "", 0, true},
		{[]string{"s-maxage=9, x-max-age=8"}, "", 0, false},
		{[]string{`private="a, max-age=1", max-age=300`}, "", 300 * time.Second, true},
	} {
		h := http.Header{"Cache-Control": tc.control}
		h.Set("Age", tc.age)
		if got, ok := freshness(h); got != tc.want || ok != tc.ok {
			t.Errorf("%q, Age %q: %v, %v; want %v, %v", tc.control, tc.age, got, ok, tc.want, tc.ok)
		}
	}
}

func TestSameOrigin(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		same     bool
	}{
		{"https://id.example/a", "https://id.example/b", true},
		{"https://id.example/a", "https://ID.EXAMPLE:443/b?c", true},
		{"http://id.example:80/a", "http://id.example/b", true},
		{"https://id.example/a", "http://id.example/a", false},
		{"http://id.example/a", "https://id.example/a", false},
		{"https://id.example/a", "https://id.example:8443/a", false},
		{"https://id.example/a", "https://www.id.example/a", false},
		{"https://id.example/a", "https://id.example.evil.example/a", false},
		{"https://id.example/a", "https://u@id.example/a", false},
	} {
		from, err := url.Parse(tc.from)
		if err != nil {
			t.Fatal(err)
		}
		to, err := url.Parse(tc.to)
		if err != nil {
			t.Fatal(err)
		}
		if err := sameOrigin(&http.Request{URL: to}, []*http.Request{{URL: from}}); (err == nil) != tc.same {
			t.Errorf("%s to %s: %v", tc.from, tc.to, err)
		}
	}
}
