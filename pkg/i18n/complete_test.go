package i18n_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var fill = flag.Bool("fill", false, "put what a language lacks into its file, to be translated there")

// TestComplete fails for every message of the program that a language has no
// translation of, and prints the lines that its file lacks; with -fill it puts
// them into the file, to be translated there, and takes out what nobody says
// any more. It fails too for a translation of what nobody says, for one with
// other verbs than the English, and for a text in the source that it can't
// follow.
func TestComplete(t *testing.T) {
	s := readSource(t)
	slices.Sort(s.faults)
	for _, f := range s.faults {
		t.Error(f)
	}
	if len(s.messages) < 200 {
		t.Fatalf("only %d messages found in the source", len(s.messages))
	}
	files, err := filepath.Glob("messages/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no languages: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { complete(t, s, file) })
	}
}

func complete(t *testing.T, s *source, file string) {
	if *fill {
		fillIn(t, s, file)
	}
	translations := readTranslations(t, file)
	var lacking bytes.Buffer
	for _, english := range slices.Sorted(maps.Keys(s.messages)) {
		forms, ok := translations[english]
		if !ok {
			enc := json.NewEncoder(&lacking)
			enc.SetEscapeHTML(false)
			_ = enc.Encode(english)
			lacking.Truncate(lacking.Len() - 1)
			lacking.WriteString(`: "",` + "\t" + s.messages[english] + "\n")
		}
		for _, text := range forms {
			if text == "" || text == english && !sameInAll[english] {
				t.Errorf("%q is not translated", english)
			}
			if got, want := verbs(t, text), verbs(t, english); !slices.Equal(got, want) {
				t.Errorf("%q: the translation has the verbs %v, want %v", english, got, want)
			}
			if strings.HasSuffix(english, ".") != strings.HasSuffix(text, ".") {
				t.Errorf("%q: one of the two ends in a full stop", english)
			}
		}
	}
	if lacking.Len() > 0 {
		t.Errorf("%s lacks translations. Put these lines into it, without what is behind the comma:\n%s", file, lacking.String())
	}
	for english := range translations {
		if _, ok := s.messages[english]; !ok {
			t.Errorf("nobody says %q any more", english)
		}
	}
}

// sameInAll are messages that a translation may leave as they are.
var sameInAll = map[string]bool{}

// fillIn writes a language's file anew, in order.
func fillIn(t *testing.T, s *source, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var had map[string]any
	if err := json.Unmarshal(text, &had); err != nil {
		t.Fatal(err)
	}
	has := map[string]any{} // which is written in the order of the keys
	for english := range s.messages {
		if has[english] = had[english]; has[english] == nil {
			has[english] = ""
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(has); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// readTranslations reads a language's file.
func readTranslations(t *testing.T, file string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var raw map[string]any
	if err := json.Unmarshal(text, &raw); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	all := map[string][]string{}
	for english, v := range raw {
		switch v := v.(type) {
		case string:
			all[english] = []string{v}
		case map[string]any:
			for _, form := range v {
				text, _ := form.(string)
				all[english] = append(all[english], text)
			}
		}
	}
	return all
}

var verb = regexp.MustCompile(`%(?:\[(\d+)\])?([-+# 0]*[\d.]*)([a-zA-Z%])`)

// verbs are those of a format, each with the number of its argument, sorted.
func verbs(t *testing.T, format string) (all []string) {
	t.Helper()
	next := 1
	for _, m := range verb.FindAllStringSubmatch(format, -1) {
		if m[3] == "%" {
			continue
		}
		at := next
		if m[1] != "" {
			at = int(m[1][0] - '0')
		}
		next = at + 1
		all = append(all, string(rune('0'+at))+m[2]+m[3])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestSource: what a text can be made of is found, and what can't be followed
// is a fault.
func TestSource(t *testing.T) {
	const program = `package program

import (
	"fmt"

	words "github.com/urbandata/urbandata/pkg/i18n"
)

type reason struct{ text words.Text }

const plain = "a constant without a type"

const typed words.Text = "a constant"

var list = []words.Text{"in a list", plain}

func say(t words.Text, more ...any) reason { return reason{t} }

func found(n int) (words.Text, error) {
	say("an " + "argument")
	say(words.Textf("%d of a format", n))
	say(words.Textf("a format %s", words.Text("in an argument")))
	if n == 0 {
		return "a result", nil
	}
	text := words.Text("converted")
	if text == "compared" {
		text = "assigned"
	}
	switch text {
	case "in a case":
	}
	_ = map[words.Text]int{"a key": 1}
	return "", fmt.Errorf("an error is no message")
}

func faults(s string, t words.Text) {
	say(words.Text(s))
	say(words.Textf(s))
	say("put together " + t)
	say(words.Foreign(s))
}
`
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "program.go"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &source{messages: map[string]string{}}
	_, fset, imports := listPackages(t)
	s.read(t, fset, imports, &goPackage{ImportPath: "program", Dir: dir, GoFiles: []string{"program.go"}}, dir)
	want := []string{
		"%d of a format", "a constant", "a constant without a type", "a format %s", "a key", "a result", "an argument", "assigned",
		"compared", "converted", "in a case", "in a list", "in an argument", "put together ",
	}
	if got := slices.Sorted(maps.Keys(s.messages)); !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	wantFaults := []string{"program.go:38", "program.go:39", "program.go:40", "program.go:41"}
	for i, f := range s.faults {
		if i >= len(wantFaults) || !strings.HasPrefix(f, wantFaults[i]+":") {
			t.Errorf("fault %s", f)
		}
	}
	if len(s.faults) != len(wantFaults) {
		t.Errorf("faults %q, want those of %q", s.faults, wantFaults)
	}
}
