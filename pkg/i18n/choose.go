package i18n

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/text/language"
)

// Limits on what is read of a header: browsers send less than 100 bytes.
const (
	maxHeader = 1024
	maxRanges = 32
)

// Chooser chooses among languages by Accept-Language.
type Chooser struct {
	tags    []language.Tag
	matcher language.Matcher
}

// NewChooser offers the languages with these BCP 47 tags. The first is the
// default. It panics if one is no tag.
func NewChooser(tags ...string) *Chooser {
	c := &Chooser{}
	for _, t := range tags {
		c.tags = append(c.tags, language.MustParse(t))
	}
	c.matcher = language.NewMatcher(c.tags)
	return c
}

// langRange is one element of Accept-Language (RFC 9110 §12.5.4).
type langRange struct {
	tag  language.Tag
	any  bool // *
	q    float64
	best int  // of the languages offered, for tag
	fits bool // best is one that will do
}

// Choose returns the index of the language that a client likes best, by an
// Accept-Language header given as its lines, or 0 and false where it asks for
// none of those offered. A regional variety (es-MX) is as good as the language,
// and so is one whose readers read it, by CLDR (es for gl, eu and qu). * stands
// for the first language that no other range names. A range with q=0 rules its
// language out. Elements that aren't valid count for nothing, and so does what
// is beyond the first 1024 bytes or 32 elements.
func (c *Chooser) Choose(acceptLanguage []string) (index int, ok bool) {
	ranges := c.parse(acceptLanguage)
	named, ruledOut := make([]bool, len(c.tags)), make([]bool, len(c.tags))
	for _, r := range ranges {
		switch {
		case r.any:
		case r.q == 0 && r.tag == c.tags[r.best]:
			ruledOut[r.best] = true
		case r.fits:
			named[r.best] = true
		}
	}
	for _, r := range ranges { // in the client's order
		switch {
		case r.q == 0:
		case r.any:
			for i := range c.tags {
				if !named[i] && !ruledOut[i] {
					return i, true
				}
			}
		case r.fits && !ruledOut[r.best]:
			return r.best, true
		}
	}
	return 0, false
}

// parse reads the elements, those that the client likes better first.
func (c *Chooser) parse(lines []string) []langRange {
	var ranges []langRange
	left := maxHeader
	for _, line := range lines {
		if len(line) > left {
			line = line[:left]
			line = line[:strings.LastIndexByte(line, ',')+1] // a whole element
		}
		left -= len(line)
		for element := range strings.SplitSeq(line, ",") {
			if r, ok := parseRange(element); ok && len(ranges) < maxRanges {
				if !r.any {
					var sure language.Confidence
					_, r.best, sure = c.matcher.Match(r.tag)
					r.fits = sure >= language.High
				}
				ranges = append(ranges, r)
			}
		}
	}
	slices.SortStableFunc(ranges, func(a, b langRange) int { return cmp.Compare(b.q, a.q) })
	return ranges
}

// parseRange reads one element, such as "es-MX;q=0.8".
func parseRange(element string) (r langRange, ok bool) {
	name, weight, weighted := strings.Cut(element, ";")
	name, r.q = strings.TrimSpace(name), 1
	if weighted {
		key, value, _ := strings.Cut(weight, "=")
		if !strings.EqualFold(strings.TrimSpace(key), "q") {
			return r, false
		}
		value = strings.TrimSpace(value)
		var err error
		if r.q, err = strconv.ParseFloat(value, 64); err != nil || r.q < 0 || r.q > 1 || strings.Trim(value, "0123456789.") != "" {
			return r, false
		}
	}
	if name == "*" {
		r.any = true
		return r, true
	}
	var err error
	r.tag, err = language.Parse(name)
	var unknown language.ValueError // a subtag that isn't registered; the rest stands
	if err != nil && !errors.As(err, &unknown) {
		return r, false
	}
	base, _ := r.tag.Base()
	return r, r.tag != language.Und && base.String() != "und"
}
