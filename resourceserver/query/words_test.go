package query

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMatchWord(t *testing.T) {
	for _, tt := range []struct {
		words, text string
		want        bool
	}{
		{"piso", "Piso en Sol", true},
		{"piso", "pisos", false},
		{"pis:*", "pisos", true},
		{"pis:*", "un pis", true},
		{"isos", "pisos", false},
		{"atico", "«Ático»", true},
		{"ático", "a\u0301tico", true}, // an accent of its own
		{"Ático", "ATICO.", true},
		{"ano", "año", true},
		{"año", "an\u0303o", true},
		{"a\u0301", "á", true},
		{"90", "90 m²", true},
		{"90m", "90m²", true},
		{"3º", "piso 3º", true},
		{"3", "piso 3º", false},
		{"ΣΟΦΌΣ", "σοφος", true}, // the final sigma too
		{"москва", "МОСКВА", true},
		{"東京", "東京 タワー", true},
		{"strasse", "Straße", false}, // one character is one
		{"piso", "", false},
		{"x", "\u0301x", true},
		{"x", "🏠x", true},
		{"b", "a_b", true}, // an underscore parts words
	} {
		n, err := Parse(some, map[string][]string{"title": {"fts." + tt.words}})
		if err != nil {
			t.Errorf("%s: %v", tt.words, err)
			continue
		}
		if got := n.Match(func(*Field) any { return tt.text }); got != tt.want {
			t.Errorf("%s in %q: %v, want %v", tt.words, tt.text, got, tt.want)
		}
	}
}

// TestWordsProperty: a text has each of its words, whole and by its
// beginning, in any case; and has what plfts makes of it.
func TestWordsProperty(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("aÁbñÑ ,.·3ºς\u0301\u0387界")), 1, 12, -1).Draw(r, "text")
		words := 0
		eachWord(text, func(word []rune) bool {
			words++
			for _, in := range []string{text, strings.ToUpper(text), strings.ToLower(text), "¡" + text + "!"} {
				if !MatchWord(string(word), in) || !MatchWord(string(word[:1])+"*", in) {
					r.Fatalf("%q isn't in %q", string(word), in)
				}
			}
			return false
		})
		n, err := Parse(some, map[string][]string{"title": {"plfts." + text}})
		if (err == nil) != (words > 0) || err == nil && !n.Match(func(*Field) any { return text }) {
			r.Fatalf("%q: %d words, %v", text, words, err)
		}
	})
}

// TestWordRegexIsShort: MongoDB takes expressions of up to 32 KiB.
func TestWordRegexIsShort(t *testing.T) {
	for r := range foldings().from {
		if n := len(wordRegex(strings.Repeat(string(r), MaxWord))); n > 30_000 {
			t.Errorf("%q makes an expression of %d bytes", r, n)
		}
	}
}

func BenchmarkMatchWord(b *testing.B) {
	text := strings.Repeat("Precioso ático céntrico, exterior y muy luminoso. ", 20)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if MatchWord("SOTANO", text) {
			b.Fatal("it isn't there")
		}
	}
}
