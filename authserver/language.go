package authserver

import "golang.org/x/text/language"

// The languages that mail is written in. The first is the default.
const (
	Spanish = "es"
	English = "en"
)

var languages = language.NewMatcher([]language.Tag{language.Spanish, language.English})

// chooseLanguage is the best of our languages for an Accept-Language field
// (RFC 9110 §12.5.4), or "" where the field has none of them.
func chooseLanguage(accept string) string {
	tags, _, err := language.ParseAcceptLanguage(accept)
	if err != nil || len(tags) == 0 {
		return ""
	}
	_, index, confidence := languages.Match(tags...)
	if confidence == language.No {
		return ""
	}
	return []string{Spanish, English}[index]
}
