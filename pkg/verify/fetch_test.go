package verify

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/verify/pace"
)

func TestFreshness(t *testing.T) {
	said := func(seconds int) pace.Promise {
		return pace.Promise{Said: true, Left: time.Duration(seconds) * time.Second}
	}
	stored := func(seconds int) pace.Promise {
		return pace.Promise{Said: true, Left: time.Duration(seconds) * time.Second, Copy: true}
	}
	for _, tc := range []struct {
		control []string
		age     string
		want    pace.Promise
	}{
		{nil, "", pace.Promise{}},
		{[]string{""}, "10", pace.Promise{}},
		{[]string{"public"}, "", pace.Promise{}},
		{[]string{"public, max-age=300"}, "", said(300)},
		{[]string{"public", "max-age=300"}, "", said(300)},
		{[]string{"Max-Age = 300"}, "", said(300)},
		{[]string{`max-age="300"`}, "", said(300)},
		{[]string{"max-age=300"}, "100", stored(200)},
		{[]string{"max-age=300"}, " 0 ", stored(300)},
		{[]string{"max-age=300"}, "1000", stored(0)},
		{[]string{"max-age=300"}, "soon", said(300)},
		{[]string{"max-age=300"}, "-1", said(300)},
		{[]string{"max-age=300, max-age=60"}, "", said(60)},
		{[]string{"max-age=60, max-age=300"}, "10", stored(50)},
		{[]string{"max-age=-1"}, "", said(0)},
		{[]string{"max-age=1.5"}, "", said(0)},
		{[]string{"max-age"}, "", said(0)},
		{[]string{"max-age=99999999999999999999"}, "", said(maxDelta)},
		{[]string{"max-age=300, no-store"}, "10", said(0)},
		{[]string{"no-cache, max-age=300"}, "", said(0)},
		{[]string{"s-maxage=9, x-max-age=8"}, "", pace.Promise{}},
		{[]string{`private="a, max-age=1", max-age=300`}, "", said(300)},
	} {
		h := http.Header{"Cache-Control": tc.control}
		h.Set("Age", tc.age)
		if got := freshness(h); got != tc.want {
			t.Errorf("%q, Age %q: %+v, want %+v", tc.control, tc.age, got, tc.want)
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
