package authserver

import (
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// defaultLanguage is that of mail to users who have told none.
const defaultLanguage = "es"

// mailLanguages are those of the catalogue, the default first.
var mailLanguages = func() []string {
	others := slices.DeleteFunc(i18n.Languages(), func(tag string) bool { return tag == defaultLanguage })
	return append([]string{defaultLanguage}, others...)
}()

var mailChooser = i18n.NewChooser(mailLanguages...)

// chooseLanguage is the best language of mail for an Accept-Language field, or
// "" where the field has none of them.
func chooseLanguage(accept string) string {
	if i, ok := mailChooser.Choose([]string{accept}); ok {
		return mailLanguages[i]
	}
	return ""
}

// badLanguage says what is wrong with a user's language, or "". That may be
// empty.
func badLanguage(tag string) i18n.Text {
	if tag == "" || slices.Contains(mailLanguages, tag) {
		return ""
	}
	return i18n.Textf("must be a language that there is: %s", strings.Join(mailLanguages, ", "))
}

// mailLanguage is a member of a request: a language, or "".
type mailLanguage string

// Schema has the languages that there are.
func (mailLanguage) Schema(huma.Registry) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString}
	for _, tag := range mailLanguages {
		s.Enum = append(s.Enum, tag)
	}
	return s
}
