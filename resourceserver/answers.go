package resourceserver

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// A list is read out of a database to be written as JSON, and nearly all that
// is in the database was written by this program, in one form. Such a document
// goes from that form to the answer in one pass, which checks what it copies
// and makes no Inmueble: decoding and encoding would be most of what a list
// costs. Anything else (another order of the fields, a whole number written
// as 1.0, a text with an escape that we wouldn't write) is left to the general
// way, parseStored or parseBSON and then AppendJSON, a document at a time. So
// these functions decide nothing: each returns the general way's very bytes,
// or that it can't. FuzzAnswers holds them to it.

// Answers are inmuebles as the API answers them, each as JSON, behind each
// other. The zero Answers are none.
type Answers struct {
	text []byte // [ or , before each
	ends []int
}

// typicalAnswer is how many bytes an answer has, more or less.
const typicalAnswer = 800

// answersPool has the memory of answers that were sent.
var answersPool = sync.Pool{New: func() any {
	return &Answers{text: make([]byte, 0, 2+defaultLimit*typicalAnswer), ends: make([]int, 0, defaultLimit)}
}}

// maxKept is how much memory is worth keeping for the next list.
const maxKept = 256 << 10

// takeAnswers returns answers, none yet.
func takeAnswers() *Answers {
	a, _ := answersPool.Get().(*Answers)
	a.clear()
	return a
}

// giveBack lets others have the memory: nobody may hold a part of it.
func (a *Answers) giveBack() {
	if cap(a.text) <= maxKept {
		answersPool.Put(a)
	}
}

// Len is how many there are.
func (a *Answers) Len() int { return len(a.ends) }

// clear takes them all away.
func (a *Answers) clear() { a.text, a.ends = a.text[:0], a.ends[:0] }

// open is the text with room for one more answer behind it.
func (a *Answers) open() []byte {
	if len(a.ends) == 0 {
		return append(a.text[:0], '[')
	}
	return append(a.text, ',')
}

// close takes the text with the answer behind it.
func (a *Answers) close(text []byte) {
	a.text, a.ends = text, append(a.ends, len(text))
}

// one is the i-th answer.
func (a *Answers) one(i int) []byte {
	begin := 1
	if i > 0 {
		begin += a.ends[i-1]
	}
	return a.text[begin:a.ends[i]]
}

// list is a JSON array of the answers, and ends their use.
func (a *Answers) list() []byte {
	if len(a.ends) == 0 {
		return append(a.text[:0], "[]"...)
	}
	return append(a.text, ']')
}

// appendLines appends the answers, a line each.
func (a *Answers) appendLines(b []byte) []byte {
	for i := range a.ends {
		b = append(append(b, a.one(i)...), '\n')
	}
	return b
}

// reverse turns their order round.
func (a *Answers) reverse() {
	turned := takeAnswers()
	for i := len(a.ends) - 1; i >= 0; i-- {
		turned.close(append(turned.open(), a.one(i)...))
	}
	*a, *turned = *turned, *a
	turned.giveBack()
}

// newPage is the page of a query, empty as yet.
func newPage(q *Query) Page {
	p := Page{After: q.After, Skip: q.Skip}
	if q.Into == nil {
		p.Items = make([]Inmueble, 0, min(q.Limit, defaultLimit))
	}
	return p
}

// addStored adds a row of SQLite's to the page: to the answers, if these are
// asked for, or else to the items. own is whether it went the short way.
func (p *Page) addStored(into *Answers, r *sqliteRow) (own bool) {
	p.met++
	p.size += len(r.document)
	if into != nil {
		if text, ok := appendStoredAnswer(into.open(), r); ok {
			into.close(text)
			return true
		}
	}
	m, err := r.inmueble()
	if err != nil {
		p.Unreadable = append(p.Unreadable, Unreadable{string(r.id), err})
		return false
	}
	p.add(into, &m)
	return false
}

// addBSON adds a document of MongoDB's likewise.
func (p *Page) addBSON(into *Answers, document bson.Raw) (own bool) {
	p.met++
	p.size += len(document)
	if into != nil {
		if text, ok := appendBSONAnswer(into.open(), document); ok {
			into.close(text)
			return true
		}
	}
	m, id, err := parseBSON(document)
	switch {
	case err == nil:
		p.add(into, &m)
	case id != "":
		p.Unreadable = append(p.Unreadable, Unreadable{id, err})
	}
	return false
}

func (p *Page) add(into *Answers, m *Inmueble) {
	if into != nil {
		into.close(m.AppendJSON(into.open()))
		return
	}
	p.Items = append(p.Items, *m)
}

// form is that of a field's value.
type form uint8

const (
	formText form = iota
	formWhole
	formDegrees
	formBool
)

// recipe is how a field stands in a stored document and in an answer.
type recipe struct {
	label     string // ,"title":
	form      form
	otherwise string // what an answer has where a document lacks it; "" for a field that must be there
	bound     int
	key       string // ,"date_key": which may follow in SQLite's documents, and is in no answer
	element   string // MongoDB's: type, name, NUL
}

var recipes = func() (all [len(fields)]recipe) {
	for i := range fields {
		f := &fields[i]
		r := recipe{label: `,"` + f.name + `":`, bound: f.bound}
		kind := bson.TypeString
		switch f.at(&Inmueble{}).(type) {
		case *string:
			r.otherwise = `""`
		case *int32:
			r.form, r.otherwise, kind = formWhole, "0", bson.TypeInt32
		case **int32:
			r.form, r.otherwise, kind = formWhole, "null", bson.TypeInt32
		case *bool:
			r.form, kind = formBool, bson.TypeBoolean
		case *float64:
			r.form, kind = formDegrees, bson.TypeDouble
		}
		if f.required {
			r.otherwise = ""
		}
		if f.isDate() {
			r.key = `,"` + f.name + keySuffix + `":`
		}
		r.element = string(byte(kind)) + f.name + "\x00"
		all[i] = r
	}
	return all
}()

// appendStoredAnswer appends the answer of a row of SQLite's. ok is false for
// one that the general way must judge; what b is then is undefined behind its
// length.
func appendStoredAnswer(b []byte, r *sqliteRow) (_ []byte, ok bool) {
	doc := r.document
	if len(doc) < 2 || noID(r.id) {
		return b, false
	}
	b = append(b, `{"_id":`...)
	if b, ok = appendTextOf(b, r.id, maxID); !ok {
		return b, false
	}
	// doc[copied:at] is of the answer, and not there yet.
	copied, at := 0, 0
	for i := 1; i < len(recipes); i++ {
		f := &recipes[i]
		if !hasLabel(doc[at:], f.label, at == 0) {
			if f.otherwise == "" {
				return b, false
			}
			b = appendPart(b, doc, copied, at)
			copied = at
			b = append(append(b, f.label...), f.otherwise...)
			continue
		}
		at += len(f.label)
		end := 0
		switch value := doc[at:]; f.form {
		case formText:
			end = textEnd(value, f.bound)
		case formWhole:
			end = wholeEnd(value)
		case formDegrees:
			end = degreesEnd(value, f.bound)
		case formBool:
			end = boolEnd(value)
		}
		if end == 0 {
			return b, false
		}
		at += end
		if f.key != "" && hasLabel(doc[at:], f.key, false) {
			b = appendPart(b, doc, copied, at)
			at += len(f.key)
			if end = textEnd(doc[at:], math.MaxInt); end == 0 {
				return b, false
			}
			at += end
			copied = at
		}
	}
	if len(doc) != at+1 || doc[at] != '}' {
		return b, false
	}
	b = appendPart(b, doc, copied, at)
	return appendByServer(b, r.owner, r.created, r.updated)
}

// noID reports whether a text that may be stored is no _id.
func noID(s []byte) bool {
	return len(s) == 0 || s[0] == '.' && (len(s) == 1 || string(s) == "..")
}

// keyIn is what a document of ours, which has gone the short way, is compared
// by as SQLite has it. A label can't be within a text, where a backslash would
// stand before its quotation marks.
func (r *recipe) keyIn(doc []byte) (key any, ok bool) {
	value := []byte(r.otherwise)
	if _, behind, found := bytes.Cut(doc, []byte(r.key)); found && r.key != "" {
		value = behind
	} else if hasLabel(doc, r.label, true) {
		value = doc[len(r.label):]
	} else if _, behind, found := bytes.Cut(doc, []byte(r.label)); found {
		value = behind
	}
	if len(value) == 0 {
		return nil, false
	}
	switch {
	case value[0] == 'n': // null
		return nil, true
	case r.form == formText:
		text, _, ok := plainText(value)
		return string(text), ok
	case r.form == formBool && value[0] == 't': // SQLite's are 1 and 0
		return int64(1), true
	case r.form == formBool:
		return int64(0), true
	case r.form == formWhole:
		n, err := strconv.ParseInt(string(value[:wholeEnd(value)]), 10, 64)
		return n, err == nil
	}
	x, err := strconv.ParseFloat(string(value[:degreesEnd(value, r.bound)]), 64)
	return x, err == nil
}

// hasLabel reports whether doc goes on with a member of this label, the first
// one behind {.
func hasLabel(doc []byte, label string, first bool) bool {
	return len(doc) > len(label) && string(doc[1:len(label)]) == label[1:] && (doc[0] == ',' || first && doc[0] == '{')
}

// appendPart appends doc[from:to], members with a comma before each.
func appendPart(b, doc []byte, from, to int) []byte {
	if from == to {
		return b
	}
	if from == 0 { // {
		b = append(b, ',')
		from = 1
	}
	return append(b, doc[from:to]...)
}

// appendByServer appends what the server set, and the end.
func appendByServer(b, owner []byte, created, updated sql.NullInt64) (_ []byte, ok bool) {
	b = append(b, `,"`+nameOwner+`":`...)
	b, ok = appendTextOf(b, owner, math.MaxInt)
	if !ok {
		return b, false
	}
	b = append(b, `,"`+nameCreatedAt+`":`...)
	at := len(b)
	if b, ok = appendMilli(b, created); !ok {
		return b, false
	}
	first := b[at:]
	b = append(b, `,"`+nameUpdatedAt+`":`...)
	if updated == created { // never changed, as most
		return append(append(b, first...), '}'), true
	}
	if b, ok = appendMilli(b, updated); !ok {
		return b, false
	}
	return append(b, '}'), true
}

// appendMilli is appendTime of a time in Unix milliseconds.
func appendMilli(b []byte, ms sql.NullInt64) (_ []byte, ok bool) {
	if !ms.Valid {
		return append(b, "null"...), true
	}
	t := time.UnixMilli(ms.Int64).UTC()
	year, month, day := t.Date()
	if t.IsZero() || year < 0 || year > 9999 {
		return b, false
	}
	hour, minute, second := t.Clock()
	thousandth := t.Nanosecond() / int(time.Millisecond)
	two := func(n int) (byte, byte) { return '0' + byte(n/10), '0' + byte(n%10) } //nolint:gosec // a part of a date, two digits
	y1, y2 := two(year / 100)
	y3, y4 := two(year % 100)
	m1, m2 := two(int(month))
	d1, d2 := two(day)
	h1, h2 := two(hour)
	n1, n2 := two(minute)
	s1, s2 := two(second)
	t1, t2 := two(thousandth / 10)
	return append(b, '"', y1, y2, y3, y4, '-', m1, m2, '-', d1, d2, 'T', h1, h2, ':', n1, n2, ':', s1, s2,
		'.', t1, t2, '0'+byte(thousandth%10), 'Z', '"'), true //nolint:gosec // a digit
}

const (
	eachByte = 0x0101010101010101
	highBits = 0x8080808080808080
)

// special finds the first byte of b that is a quotation mark, a backslash or
// a control character; it is len(b) if there is none. ascii is whether no
// byte before it is beyond ASCII.
func special(b []byte) (at int, ascii bool) {
	var high uint64
	for ; at+8 <= len(b); at += 8 {
		x := binary.LittleEndian.Uint64(b[at:])
		quote, slash := x^('"'*eachByte), x^('\\'*eachByte)
		// A byte that is 0 after the xor, or below a space, borrows; only
		// bytes behind such a one can be marked wrongly.
		found := ((quote-eachByte)&^quote | (slash-eachByte)&^slash | (x-' '*eachByte)&^x) & highBits
		if found != 0 {
			n := bits.TrailingZeros64(found) / 8
			high |= x & (1<<(8*n) - 1)
			return at + n, high&highBits == 0
		}
		high |= x
	}
	ascii = high&highBits == 0
	for ; at < len(b); at++ {
		switch c := b[at]; {
		case c == '"', c == '\\', c < ' ':
			return at, ascii
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return at, ascii
}

// What follows measures a value as AppendJSON writes it at the beginning of b.
// 0 is none, or one that must be looked at closer. What may come behind it is
// the caller's to say: a , or the end.

// textEnd is the length of a text in quotes, of at most bound code points.
func textEnd(b []byte, bound int) int {
	if len(b) < 2 || b[0] != '"' {
		return 0
	}
	at, plain := 1, true
	for {
		n, ascii := special(b[at:])
		plain = plain && ascii
		if at += n; at >= len(b) {
			return 0
		}
		if b[at] == '"' {
			break
		}
		if b[at] != '\\' || at+1 >= len(b) || !ownEscape(b[at+1]) {
			return 0
		}
		at += 2
	}
	if !plain && !utf8.Valid(b[1:at]) {
		return 0
	}
	if at-1 > bound && utf8.RuneCount(b[1:at]) > bound { // with its escapes, which count twice: the general way counts right
		return 0
	}
	return at + 1
}

// ownEscape reports whether appendText writes this character behind a
// backslash.
func ownEscape(c byte) bool {
	switch c {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return true
	}
	return false
}

// wholeEnd is that of a whole number of 32 bits.
func wholeEnd(b []byte) int {
	at := 0
	if len(b) > 0 && b[0] == '-' {
		at = 1
	}
	first, n := at, int64(0)
	for ; at < len(b) && b[at] >= '0' && b[at] <= '9'; at++ {
		if at-first == 10 {
			return 0
		}
		n = n*10 + int64(b[at]-'0')
	}
	switch digits := at - first; {
	case digits == 0, b[first] == '0' && (digits > 1 || first == 1), n > math.MaxInt32+int64(first):
		return 0
	}
	return at
}

// exactDigits is how many decimal digits a float64 keeps apart: no two numbers
// of so many are one, so each is the shortest that reads back as it is.
const exactDigits = 15

// degreesEnd is that of a number of at most bound either way.
func degreesEnd(b []byte, bound int) int {
	at := 0
	if len(b) > 0 && b[0] == '-' {
		at = 1
	}
	first, whole := at, 0
	for ; at < len(b) && b[at] >= '0' && b[at] <= '9'; at++ {
		if at-first == 3 {
			return 0
		}
		whole = whole*10 + int(b[at]-'0')
	}
	digits := at - first
	if digits == 0 || b[first] == '0' && digits > 1 {
		return 0
	}
	if at == len(b) || b[at] != '.' {
		if whole > bound || whole == 0 && first == 1 {
			return 0
		}
		return at
	}
	at++
	fraction, zeros := at, 0
	for ; at < len(b) && b[at] >= '0' && b[at] <= '9'; at++ {
		if b[at] == '0' && zeros == at-fraction {
			zeros++
		}
	}
	switch {
	case at == fraction, b[at-1] == '0', whole >= bound, whole == 0 && zeros >= 6:
		return 0
	case digits+at-fraction > exactDigits:
		var again [40]byte
		v, err := strconv.ParseFloat(string(b[:at]), 64)
		if err != nil || !bytes.Equal(appendNumber(again[:0], v), b[:at]) {
			return 0
		}
	}
	return at
}

// boolEnd is that of true and false.
func boolEnd(b []byte) int {
	for _, word := range []string{"true", "false"} {
		if len(b) >= len(word) && string(b[:len(word)]) == word {
			return len(word)
		}
	}
	return 0
}

// appendTextOf is appendText of a text that checkText lets pass.
func appendTextOf(b, s []byte, bound int) (_ []byte, ok bool) {
	at, ascii := special(s)
	if len(s) > bound && utf8.RuneCount(s) > bound {
		return b, false
	}
	if at == len(s) {
		if !ascii && !utf8.Valid(s) {
			return b, false
		}
		return append(append(append(b, '"'), s...), '"'), true
	}
	if bytes.IndexByte(s, 0) >= 0 {
		return b, false
	}
	b, err := jsontext.AppendQuote(b, s)
	return b, err == nil // else it is no UTF-8
}

// The elements behind the fields of MongoDB's documents.
var (
	elementDateKey   = string(byte(bson.TypeString)) + "date" + keySuffix + "\x00"
	elementDateInKey = string(byte(bson.TypeString)) + "date_in" + keySuffix + "\x00"
	elementOwner     = string(byte(bson.TypeString)) + nameOwner + "\x00"
	elementCreatedAt = string(byte(bson.TypeDateTime)) + nameCreatedAt + "\x00"
	elementUpdatedAt = string(byte(bson.TypeDateTime)) + nameUpdatedAt + "\x00"
	elementWords     = string(byte(bson.TypeArray)) + query.WordsPath + "\x00"
	elementDistance  = string(byte(bson.TypeDouble)) + query.DistancePath + "\x00"
	elementMark      = string(byte(bson.TypeObjectID)) + nameMark + "\x00"
)

// elements takes what appendBSON wrote off the front of a document.
type elements []byte

// next takes the head of an element.
func (e *elements) next(head string) bool {
	if len(*e) < len(head) || string((*e)[:len(head)]) != head {
		return false
	}
	*e = (*e)[len(head):]
	return true
}

// take takes n bytes of a value, nil if there are fewer.
func (e *elements) take(n int) []byte {
	if n < 0 || len(*e) < n {
		return nil
	}
	v := (*e)[:n]
	*e = (*e)[n:]
	return v
}

func (e *elements) text() (s []byte, ok bool) {
	size := e.take(4)
	if size == nil {
		return nil, false
	}
	s = e.take(int(int32(binary.LittleEndian.Uint32(size)))) //nolint:gosec // BSON's are signed
	if len(s) == 0 || s[len(s)-1] != 0 {
		return nil, false
	}
	return s[:len(s)-1], true
}

// time takes a time, if it is there.
func (e *elements) time(head string) (ms sql.NullInt64, ok bool) {
	if !e.next(head) {
		return ms, true
	}
	v := e.take(8)
	if v == nil {
		return ms, false
	}
	ms = sql.NullInt64{Int64: int64(binary.LittleEndian.Uint64(v)), Valid: true} //nolint:gosec // BSON's are signed
	return ms, ms.Int64 >= minMilli && ms.Int64 <= maxMilli
}

// skipHidden takes what may come last, and is in no answer.
func (e *elements) skipHidden() {
	for {
		switch {
		case e.next(elementWords):
			if size := e.take(4); size != nil {
				e.take(int(int32(binary.LittleEndian.Uint32(size))) - len(size)) //nolint:gosec // BSON's are signed
			}
		case e.next(elementMark): // of a load that is over, or under way: see mongo_load.go
			e.take(len(primitive.ObjectID{}))
		case e.next(elementDistance):
			e.take(8)
		default:
			return
		}
	}
}

// appendBSONAnswer is appendStoredAnswer of a document of MongoDB's.
func appendBSONAnswer(b []byte, doc []byte) (_ []byte, ok bool) {
	if len(doc) < 5 || int(binary.LittleEndian.Uint32(doc)) != len(doc) {
		return b, false
	}
	rest := elements(doc[4:])
	for i := range recipes {
		r := &recipes[i]
		label := r.label
		if i == 0 {
			label = `{"_id":`
		}
		b = append(b, label...)
		if !rest.next(r.element) {
			if r.otherwise == "" {
				return b, false
			}
			b = append(b, r.otherwise...)
			continue
		}
		switch r.form {
		case formText:
			s, ok := rest.text()
			if !ok || i == 0 && noID(s) {
				return b, false
			}
			if b, ok = appendTextOf(b, s, r.bound); !ok {
				return b, false
			}
		case formWhole:
			v := rest.take(4)
			if v == nil {
				return b, false
			}
			b = strconv.AppendInt(b, int64(int32(binary.LittleEndian.Uint32(v))), 10) //nolint:gosec // BSON's are signed
		case formDegrees:
			v := rest.take(8)
			if v == nil {
				return b, false
			}
			x := math.Float64frombits(binary.LittleEndian.Uint64(v))
			if !(math.Abs(x) <= float64(r.bound)) || x == 0 && math.Signbit(x) {
				return b, false
			}
			b = appendNumber(b, x)
		case formBool:
			v := rest.take(1)
			if v == nil || v[0] > 1 {
				return b, false
			}
			b = strconv.AppendBool(b, v[0] == 1)
		}
	}
	for _, key := range [...]string{elementDateKey, elementDateInKey} {
		if !rest.next(key) {
			return b, false
		}
		if _, ok := rest.text(); !ok {
			return b, false
		}
	}
	var owner []byte
	if rest.next(elementOwner) {
		if owner, ok = rest.text(); !ok {
			return b, false
		}
	}
	created, fine := rest.time(elementCreatedAt)
	updated, ok := rest.time(elementUpdatedAt)
	rest.skipHidden()
	if !fine || !ok || len(rest) != 1 || rest[0] != 0 {
		return b, false
	}
	return appendByServer(b, owner, created, updated)
}
