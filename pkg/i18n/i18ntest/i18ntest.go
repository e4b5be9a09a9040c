// Package i18ntest judges whether a server speaks other languages than
// English. It is for tests.
package i18ntest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// english are words that no translation has, but for what it quotes.
var english = regexp.MustCompile(`(?i)\b(the|must|should|isn't|can't|doesn't|there|with|which|where|has|have|this|that|wrong|expected|required)\b`)

// Problem sends one bad request again and again: without Accept-Language, in
// English, and in every other language of the catalogue. It fails unless each
// answer is the same problem with all of its sentences in that language, and
// says by Content-Language and Vary that it is. request makes the request anew
// each time. It returns the English answer.
func Problem(t *testing.T, h http.Handler, request func() *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	ask := func(accept string) *httptest.ResponseRecorder {
		r := request()
		if accept != "" {
			r.Header.Set("Accept-Language", accept)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	plain := ask("")
	if plain.Code < 400 {
		t.Errorf("%d %.200s, want a problem", plain.Code, plain.Body)
		return plain
	}
	for _, tag := range i18n.Languages() {
		w := ask("xx, " + tag + ";q=0.5")
		if w.Code != plain.Code {
			t.Errorf("%s: %d, want %d", tag, w.Code, plain.Code)
		}
		if got := w.Header().Get("Content-Language"); got != tag {
			t.Errorf("%s: Content-Language %q", tag, got)
		}
		if !slices.ContainsFunc(w.Header().Values("Vary"), func(v string) bool { return strings.Contains(v, "Accept-Language") }) {
			t.Errorf("%s: Vary %q", tag, w.Header().Values("Vary"))
		}
		for _, fault := range compare("", decode(t, plain), decode(t, w), tag != i18n.English) {
			t.Errorf("%s: %s", tag, fault)
		}
	}
	return plain
}

func decode(t *testing.T, w *httptest.ResponseRecorder) (v any) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Errorf("%v: %.200s", err, w.Body)
	}
	return v
}

// compare goes through both answers. Only sentences differ, and if translated
// all of them do.
func compare(at string, en, got any, translated bool) (faults []string) {
	switch en := en.(type) {
	case map[string]any:
		other, _ := got.(map[string]any)
		for name, v := range en {
			faults = append(faults, compare(at+"/"+name, v, other[name], translated)...)
		}
		if len(other) != len(en) {
			faults = append(faults, fmt.Sprintf("%s has the members %v, want those of %v", at, other, en))
		}
	case []any:
		other, _ := got.([]any)
		for i, v := range en {
			if i < len(other) {
				faults = append(faults, compare(fmt.Sprintf("%s/%d", at, i), v, other[i], translated)...)
			}
		}
		if len(other) != len(en) {
			faults = append(faults, fmt.Sprintf("%s has %d items, want %d", at, len(other), len(en)))
		}
	case string:
		text, _ := got.(string)
		if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' }); i >= 0 || strings.Contains(text, "%!") {
			faults = append(faults, fmt.Sprintf("%s is %q", at, text))
		}
		if strings.HasSuffix(at, "/error_description") && strings.ContainsFunc(text, func(r rune) bool { return r > '~' || r == '"' || r == '\\' }) {
			faults = append(faults, fmt.Sprintf("%s is %q: RFC 6749 allows no such characters", at, text))
		}
		sentence := slices.ContainsFunc([]string{"/title", "/detail", "/message", "/details", "/hint"}, func(name string) bool { return strings.HasSuffix(at, name) })
		switch {
		case !sentence || !translated:
			if text != en {
				faults = append(faults, fmt.Sprintf("%s is %q, want %q", at, text, en))
			}
		case text == en:
			faults = append(faults, fmt.Sprintf("%s is not translated: %q", at, text))
		case english.MatchString(text):
			faults = append(faults, fmt.Sprintf("%s is not translated in all its parts: %q", at, text))
		}
	default:
		if en != got {
			faults = append(faults, fmt.Sprintf("%s is %v, want %v", at, got, en))
		}
	}
	return faults
}
