// Package i18n has what people read in their language: the messages of both
// services' answers and the mail of authn.
//
// A message is a [Text]: the English sentence as it stands in the source,
// which is also its key in the catalogue. What is only known while a request
// is answered goes in by [Textf], and stays apart from the sentence until the
// answer is written:
//
//	web.AtMember("/name", "is required")
//	web.AtMember("/name", i18n.Textf("must have at most %d characters", max))
//
// A constant is a Text by itself. A string made in any other way isn't, and the
// compiler says so; a conversion that would get around it is found by a test.
//
//	handler ── Text ──► web.Problem ── Language.Say ──► the answer
//	                                       ▲
//	          Accept-Language ── Choose ───┘
//
// English is the source. Every other language is one file of this package,
// messages/TAG.json, TAG being its BCP 47 tag, an object from the English to
// the translation, which is empty until there is one:
//
//	"is required": "es obligatorio",
//	"must have at most %d characters": {
//	  "one": "debe tener como máximo %d carácter",
//	  "other": "debe tener como máximo %d caracteres"
//	}
//
// The second form is for a sentence that depends on a number, its first: the
// plural categories are those of CLDR. A translation has the verbs of package
// fmt that the English has; another order is said as there, %[2]s %[1]d. To add
// a language is to add a file: `go test ./pkg/i18n` lists what it lacks, in a
// form that can be put into it. Nothing else names the languages there are.
//
// Numbers are written in every language as the API reads them: 0.5, 1048576. A
// sentence that says which number to send mustn't say 0,5. Codes (the member
// code of a problem, error of RFC 6749) are no sentences and have no language.
package i18n

import (
	"cmp"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"golang.org/x/text/feature/plural"
	"golang.org/x/text/language"
)

// English is the language of the source, and of who asks for none of ours.
const English = "en"

//go:embed messages/*.json
var files embed.FS

var catalogue = func() *Catalogue {
	sub, err := fs.Sub(files, "messages")
	if err != nil {
		panic(err)
	}
	c, err := find(sub)
	if err != nil { // a test reads the same files
		panic(err)
	}
	return c
}()

// Choose is the language of the built-in catalogue that is best for an
// Accept-Language header (RFC 9110 §12.5.4), given as its lines: English where
// that is absent, is not valid, or asks for none that there is.
func Choose(acceptLanguage []string) *Language { return catalogue.Choose(acceptLanguage) }

// Languages are the tags of the built-in catalogue, English first.
func Languages() []string { return catalogue.Languages() }

// Of is the language with this tag of the built-in catalogue, or English.
func Of(tag string) *Language { return catalogue.Of(tag) }

// Catalogue is a set of languages. It doesn't change once it is loaded. What
// the built-in one says in a language is read when it first says something.
type Catalogue struct {
	languages []*Language // English first
	chooser   *Chooser
}

// Language says messages in one language.
type Language struct {
	Tag   string // BCP 47
	tag   language.Tag
	texts func() (map[string]translation, error) // reads them once; nil: it has none
}

// translation is a sentence, or one for each plural category.
type translation struct {
	forms [plural.Many + 1]string // by plural.Form; Other is always there
}

// category is the plural form that CLDR has a name for.
func category(name string) (form plural.Form, ok bool) {
	switch name {
	case "zero":
		return plural.Zero, true
	case "one":
		return plural.One, true
	case "two":
		return plural.Two, true
	case "few":
		return plural.Few, true
	case "many":
		return plural.Many, true
	}
	return plural.Other, name == "other"
}

// UnmarshalJSON reads a string, or an object with a string for each category.
func (t *translation) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, &t.forms[plural.Other])
	}
	var byName map[string]string
	if err := json.Unmarshal(data, &byName); err != nil {
		return err
	}
	for name, text := range byName {
		form, ok := category(name)
		if !ok {
			return fmt.Errorf("%q is no plural category of CLDR", name)
		}
		t.forms[form] = text
	}
	if t.forms[plural.Other] == "" {
		return fmt.Errorf("the plural category other is missing")
	}
	return nil
}

// Load reads the files *.json of a directory, one for each language.
func Load(fsys fs.FS) (*Catalogue, error) {
	c, err := find(fsys)
	if err != nil {
		return nil, err
	}
	for _, l := range c.languages[1:] {
		if _, err := l.texts(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// find is Load without reading what is in the files.
func find(fsys fs.FS) (*Catalogue, error) {
	names, err := fs.Glob(fsys, "*.json")
	if err != nil {
		return nil, fmt.Errorf("i18n: %w", err)
	}
	c := &Catalogue{languages: []*Language{{Tag: English, tag: language.English}}}
	tags := []string{English}
	for _, name := range names {
		l := &Language{Tag: strings.TrimSuffix(path.Base(name), ".json")}
		if l.tag, err = language.Parse(l.Tag); err != nil || l.Tag == English {
			return nil, fmt.Errorf("i18n: %s: the name is not the tag of a language to translate to", name)
		}
		l.texts = sync.OnceValues(func() (texts map[string]translation, err error) {
			text, err := fs.ReadFile(fsys, name)
			if err != nil {
				return nil, fmt.Errorf("i18n: %w", err)
			}
			if err := json.Unmarshal(text, &texts); err != nil {
				return nil, fmt.Errorf("i18n: %s: %w", name, err)
			}
			return texts, nil
		})
		c.languages, tags = append(c.languages, l), append(tags, l.Tag)
	}
	c.chooser = NewChooser(tags...)
	return c, nil
}

// Choose is [Choose] in this catalogue.
func (c *Catalogue) Choose(acceptLanguage []string) *Language {
	i, _ := c.chooser.Choose(acceptLanguage)
	return c.languages[i]
}

// Languages are the tags of the catalogue, English first.
func (c *Catalogue) Languages() []string {
	tags := make([]string, len(c.languages))
	for i, l := range c.languages {
		tags[i] = l.Tag
	}
	return tags
}

// Of is the language with this tag, or English.
func (c *Catalogue) Of(tag string) *Language {
	i := slices.IndexFunc(c.languages, func(l *Language) bool { return l.Tag == tag })
	return c.languages[max(i, 0)]
}

// Say is a text in this language; in English if it has no translation.
func (l *Language) Say(t Text) string {
	format, args := t.Parts()
	if l.texts != nil {
		texts, err := l.texts()
		if err != nil { // of the built-in catalogue: a test reads the same files
			panic(err)
		}
		if translated, ok := texts[format]; ok {
			format = cmp.Or(translated.form(l.tag, args), format) // empty: not translated yet
		}
	}
	if args == nil {
		return format
	}
	for i, a := range args {
		switch a := a.(type) {
		case Text:
			args[i] = l.Say(a)
		case Or:
			args[i] = l.or(a)
		}
	}
	return strings.ReplaceAll(fmt.Sprintf(format, args...), mark, "\ufffd")
}

// Translate is [Language.Say] as a Text that is the same in all languages.
func (l *Language) Translate(t Text) Text {
	if t == "" {
		return ""
	}
	return Text(l.Say(t))
}

// or is a list with this language's word between the last two.
func (l *Language) or(list Or) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	last := len(list) - 1
	return l.Say(Textf("%s or %s", strings.Join(list[:last], ", "), list[last]))
}

// form is the sentence for the first number among args.
func (t *translation) form(tag language.Tag, args []any) string {
	for _, a := range args {
		if n, ok := a.(int64); ok {
			// What follows are the digits after a decimal point: none.
			if s := t.forms[plural.Cardinal.MatchPlural(tag, int(max(n, -n)%1_000_000_000), 0, 0, 0, 0)]; s != "" {
				return s
			}
			break
		}
	}
	return t.forms[plural.Other]
}
