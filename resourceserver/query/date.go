package query

import "time"

// DateKey is what a date is compared by. A date or date-time of ISO 8601
// (extended or basic, a space for the T, up to nine digits of a fraction) has
// as its key the moment in UTC, 2006-01-02 at midnight and
// 2006-01-02T15:04:05.9 otherwise, without zeros at the end of the fraction;
// without a zone it is taken for UTC. Such keys sort as text in the order of
// time. Any other text is its own key.
func DateKey(text string) string {
	if isDay(text) { // the common case: it is its own key
		return text
	}
	t, ok := parseDate(text)
	if !ok {
		return text
	}
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 {
		return text
	}
	if t.Hour() == 0 && t.Minute() == 0 && t.Second() == 0 && t.Nanosecond() == 0 {
		return t.Format(time.DateOnly)
	}
	return t.Format("2006-01-02T15:04:05.999999999")
}

// IsDate reports whether text is a date that is compared as a moment.
func IsDate(text string) bool {
	_, ok := parseDate(text)
	return ok
}

// isDay reports whether text is written as a day, true or not: either way it
// is its own key.
func isDay(s string) bool {
	if len(s) != len("2006-01-02") || s[4] != '-' || s[7] != '-' {
		return false
	}
	return digits(s[:4]) && digits(s[5:7]) && digits(s[8:])
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// scanner takes numbers of fixed length off a text.
type scanner struct {
	rest string
	bad  bool
}

func (s *scanner) number(n int) int {
	if len(s.rest) < n || !digits(s.rest[:n]) {
		s.bad = true
		return 0
	}
	v := 0
	for i := range n {
		v = v*10 + int(s.rest[i]-'0')
	}
	s.rest = s.rest[n:]
	return v
}

// has takes one of these bytes, if that comes next.
func (s *scanner) has(these string) bool {
	if s.rest == "" {
		return false
	}
	for i := range len(these) {
		if s.rest[0] == these[i] {
			s.rest = s.rest[1:]
			return true
		}
	}
	return false
}

func parseDate(text string) (time.Time, bool) {
	s := &scanner{rest: text}
	year := s.number(4)
	extended := s.has("-")
	month := s.number(2)
	if extended && !s.has("-") {
		return time.Time{}, false
	}
	day := s.number(2)
	hour, minute, second, nano, zone := 0, 0, 0, 0, 0
	if !s.bad && s.rest != "" {
		if !s.has("Tt ") {
			return time.Time{}, false
		}
		hour, minute, second, nano = s.clock(extended)
		zone = s.zone()
	}
	if s.bad || s.rest != "" || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, nano, time.UTC)
	if t.Month() != time.Month(month) || t.Day() != day { // the 31st of February
		return time.Time{}, false
	}
	return t.Add(-time.Duration(zone) * time.Minute), true
}

func (s *scanner) clock(extended bool) (hour, minute, second, nano int) {
	hour = s.number(2)
	if extended && !s.has(":") {
		s.bad = true
	}
	minute = s.number(2)
	if extended && !s.has(":") || !extended && (s.rest == "" || !digits(s.rest[:1])) {
		return hour, minute, 0, 0
	}
	second = s.number(2)
	if !s.has(".,") {
		return hour, minute, second, 0
	}
	scale := 100_000_000
	from := s.rest
	for ; scale > 0 && s.rest != "" && digits(s.rest[:1]); scale /= 10 {
		nano += s.number(1) * scale
	}
	s.bad = s.bad || from == s.rest // a point without a digit
	return hour, minute, second, nano
}

// zone reads Z, ±hh, ±hhmm, ±hh:mm or nothing, in minutes east.
func (s *scanner) zone() int {
	if s.rest == "" || s.has("Zz") {
		return 0
	}
	sign := 1
	if s.has("-") {
		sign = -1
	} else if !s.has("+") {
		s.bad = true
		return 0
	}
	hours, minutes := s.number(2), 0
	if s.rest != "" {
		s.has(":")
		minutes = s.number(2)
	}
	if hours > 23 || minutes > 59 {
		s.bad = true
	}
	return sign * (hours*60 + minutes)
}
