package i18n_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// bilingual has the languages of these tests, whatever the program has.
func bilingual(t testing.TB) *i18n.Catalogue {
	t.Helper()
	c, err := i18n.Load(fstest.MapFS{"es.json": {Data: []byte("{}")}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestChoose(t *testing.T) {
	c := bilingual(t)
	for _, tc := range []struct {
		header []string
		want   string
	}{
		{nil, "en"},
		{[]string{""}, "en"},
		{[]string{"es"}, "es"},
		{[]string{"ES"}, "es"},
		{[]string{"es-MX"}, "es"},
		{[]string{"es-419,es;q=0.9,en;q=0.8"}, "es"},
		{[]string{"es-ES-x-private"}, "es"},
		{[]string{"en-GB,en;q=0.9,es;q=0.8"}, "en"},
		{[]string{"en;q=0.5, es;q=0.6"}, "es"},
		{[]string{"en;q=0.6, es;q=0.5"}, "en"},
		{[]string{"es;q=0.5, en;q=0.5"}, "es"}, // the order decides
		{[]string{"es ; Q = 0.7 , en ; q=0.1"}, "es"},
		{[]string{"en;q=0.1", "es;q=0.2"}, "es"}, // two lines are one list
		{[]string{"fr, de;q=0.9"}, "en"},         // none that there is
		{[]string{"fr, es;q=0.1"}, "es"},
		{[]string{"gl"}, "es"}, // who reads Galician reads Spanish, says CLDR
		{[]string{"ca"}, "en"}, // of Catalan it doesn't

		{[]string{"*"}, "en"},
		{[]string{"*, es;q=0.5"}, "en"},
		{[]string{"es, *;q=0.5"}, "es"},
		{[]string{"en;q=0.2, *;q=0.5"}, "es"}, // * is what isn't named
		{[]string{"*;q=0"}, "en"},
		{[]string{"en;q=0, *"}, "es"},
		{[]string{"es;q=0"}, "en"},
		{[]string{"es;q=0, es-MX"}, "en"},
		{[]string{"es;q=0, *"}, "en"},
		{[]string{"en;q=0, es;q=0, *"}, "en"}, // ruled out, but an error must be said somehow
		{[]string{"es-AR;q=0, es"}, "es"},

		// What isn't valid counts for nothing.
		{[]string{"es;q=2"}, "en"},
		{[]string{"es;q=-1"}, "en"},
		{[]string{"es;q=NaN"}, "en"},
		{[]string{"es;q=1e-1"}, "en"},
		{[]string{"es;q="}, "en"},
		{[]string{"es;level=1"}, "en"},
		{[]string{"es;q=0.5;q=0.6"}, "en"},
		{[]string{"e s"}, "en"},
		{[]string{"\x00\xff,;;,=,--,es;q=0.3"}, "es"},
		{[]string{",, ,es"}, "es"},
		{[]string{"und"}, "en"},
		{[]string{"xx-YY"}, "en"},
		{[]string{"es-ZZ"}, "es"}, // a region that isn't registered

		// A huge header is read as far as browsers write.
		{[]string{strings.Repeat("fr,", 20) + "es"}, "es"},
		{[]string{strings.Repeat("fr,", 100) + "es"}, "en"},
		{[]string{strings.Repeat("a", 1<<20) + ",es"}, "en"},
		{[]string{"es," + strings.Repeat("a-", 1<<20)}, "es"},
		{[]string{strings.Repeat(" ", 1020) + ",es-MX"}, "en"},
	} {
		if got := c.Choose(tc.header).Tag; got != tc.want {
			t.Errorf("%.100q: %s, want %s", tc.header, got, tc.want)
		}
	}
}

// A chooser may offer other languages, in another order.
func TestChooser(t *testing.T) {
	c := i18n.NewChooser("es", "en")
	for _, tc := range []struct {
		header string
		index  int
		ok     bool
	}{
		{"", 0, false},
		{"fr", 0, false},
		{"*", 0, true},
		{"en", 1, true},
		{"en;q=0.1, es;q=0.1", 1, true},
		{"es-MX, en", 0, true},
	} {
		if index, ok := c.Choose([]string{tc.header}); index != tc.index || ok != tc.ok {
			t.Errorf("%q: %d, %v, want %d, %v", tc.header, index, ok, tc.index, tc.ok)
		}
	}
}

func FuzzChoose(f *testing.F) {
	c := bilingual(f)
	for _, s := range []string{"", "es", "es-MX,es;q=0.9,en;q=0.8", "*;q=0.1", "en;q=0, *", "x-y-z;q=0.", "es;q=1.0000;q=2,,,"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		l := c.Choose([]string{one, two})
		if l.Tag != "en" && l.Tag != "es" {
			t.Fatalf("%q", l.Tag)
		}
		if joined := c.Choose([]string{one + "," + two}); len(one)+len(two) < 1000 && joined != l {
			t.Errorf("two lines give %s, one list %s", l.Tag, joined.Tag)
		}
		// Nobody is answered in a language that they rule out while another is left.
		if l := c.Choose([]string{"es;q=0, en;q=0.001", one}); len(one) < 900 && l.Tag == "es" {
			t.Errorf("es is ruled out and chosen")
		}
	})
}

func BenchmarkChoose(b *testing.B) {
	header := []string{"es-MX,es;q=0.9,en-US;q=0.8,en;q=0.7"}
	b.ReportAllocs()
	for b.Loop() {
		i18n.Choose(header)
	}
}
