package resourceserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// What an import that stored nothing returns, wrapped, besides the store's
// errors.
var (
	// ErrHeader: the first row is not one that names the columns.
	ErrHeader = errors.New("resourceserver: the file's first row doesn't name the columns it must")
	// ErrBadRows: there are rows that are no valid inmuebles; the report
	// lists the first of them.
	ErrBadRows = errors.New("resourceserver: the file has bad rows")
)

// headerError is ErrHeader with the reason, and its cause if there is one.
type headerError struct {
	reason i18n.Text
	cause  error
}

func (e *headerError) Error() string { return ErrHeader.Error() + ": " + e.reason.String() }

func (e *headerError) Unwrap() []error { return []error{ErrHeader, e.cause} }

const maxReported = 20 // rows in a report

// The formats that an import knows.
const (
	FormatCSV    = "CSV"
	FormatNDJSON = "NDJSON"
	FormatJSON   = "JSON" // one array
)

// ImportOptions says what the file doesn't. Of what is zero, the file itself
// is asked.
type ImportOptions struct {
	Owner string    // the sub that will own the inmuebles; "" is nobody, so that only an admin can change them
	Own   bool      // change only inmuebles that Owner owns; else anybody's
	Now   time.Time // becomes created_at and updated_at

	Format    string // FormatCSV, FormatNDJSON or FormatJSON
	Encoding  string // one of Encodings
	Delimiter byte   // of CSV: comma, semicolon or tab
	SwapXY    bool   // the column coordinates has y before x

	Catalogues *Catalogues     // which codes there are; nil lets all
	Draft      *CatalogueDraft // is given the codes of good rows; nil isn't

	OnDuplicate OnDuplicate
	SkipBad     bool      // leave bad rows out instead of storing nothing
	Rejects     io.Writer // is given the bad rows, as CSV: line, column, reason, row; nil isn't
	DryRun      bool      // do all but store

	Batch int // rows that are stored at a time; 0 is all or nothing
	From  int // the first row to be loaded, from 1; 0 is 1

	Progress func(rows int) // is told every thousand rows; nil isn't

	// MaxUnpacked bounds the bytes that a packed file may unpack to; 0 doesn't.
	MaxUnpacked int64

	// step is asked with each batch what a job has come to by it, to be stored
	// in the same step: see [Batch]. last is true of the last one.
	step func(r Report, last bool) (Job, error)

	resumed bool // Rejects has the bad rows of a part before this one
}

// Report tells what an import did, or would have done but for the error.
type Report struct {
	Format, Encoding, Packing string // as found; Encoding is "" for ASCII
	Delimiter                 byte   // of CSV

	Rows      int // read, without the header and those before From
	Stored    int // new; with an error, only in batches that were complete
	Changed   int // replaced or merged
	Unchanged int // were there already, as they are in the file
	Existing  int // were there already and stay, whatever the file has
	Skipped   int // rows without an id
	Rejected  int // bad rows left out
	MadeIDs   int // rows without an id_uda, which were given a new _id

	// Done is the last row of the batches that are stored, from 1: an import
	// From the next one goes on. With an error and no Batch it is 0.
	Done int

	UnknownColumns []string   // were ignored; 20 at most
	OtherDates     int        // rows whose date or date_in is no ISO 8601 date: kept as text
	LookSwapped    bool       // most coordinates are in Spain only when x and y change places
	Bad            []RowError // the first 20
	MoreBad        bool       // there are others
}

// RowError says what is wrong with one value of a file. It never repeats the
// value.
type RowError struct {
	Line   int    // of the file, from 1
	Column string // as the header names it, "" for the whole row
	Reason i18n.Text
}

// keptRowError is a RowError as a job keeps it.
type keptRowError struct {
	Line   int       `json:"line"`
	Column string    `json:"column"`
	Reason i18n.Kept `json:"reason"`
}

// MarshalJSON keeps the reason for every language.
func (e RowError) MarshalJSON() ([]byte, error) {
	return json.Marshal(keptRowError{e.Line, e.Column, i18n.Kept(e.Reason)})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (e *RowError) UnmarshalJSON(text []byte) error {
	var k keptRowError
	err := json.Unmarshal(text, &k)
	*e = RowError{k.Line, k.Column, k.Reason.Text()}
	return err
}

// String is a line for a person.
func (e RowError) String() string {
	if e.Column == "" {
		return fmt.Sprintf("line %d: the row %s", e.Line, e.Reason)
	}
	return fmt.Sprintf("line %d: %s %s", e.Line, e.Column, e.Reason)
}

// Import stores the inmuebles of a file, all or none unless the options say
// otherwise, reading it in constant memory. It may be packed by gzip or zstd,
// and in UTF-8, UTF-16 or Windows-1252.
//
// NDJSON has an object a line, JSON is an array of objects, with the fields by
// their names; what the server sets is ignored. Of CSV the first row names the columns, in any
// order and case, with or without accents and underscores:
//
//	id_uda       the _id; where it is null one is made, from the row and its number
//	id           the other_id, of which letters and digits are kept; a row without is skipped
//	coordinates  "x,y", for x_coord and y_coord, which may be columns of their own
//	is_active    true/false, t/f, 1/0, yes/no, sí/no
//	others       as the fields are named, or one of columnAliases; an integer may be written 3.0
//
// The delimiter is a comma, a semicolon or a tab, as the header has it. An
// empty value, null and none, in any case, are null; a backslash before one
// makes it text, and one before an id keeps it as it is. A number may have a decimal comma. A column may be missing
// where its field may, and where rows are only to be merged. Columns of other
// names are ignored, and reported.
//
// The error wraps ErrHeader, ErrEncoding, ErrBadRows, ErrDuplicate, or is the
// store's or the reader's. The report is true with every error.
func Import(ctx context.Context, store Store, r io.Reader, opts ImportOptions) (Report, error) {
	rows, err := newRowReader(r, opts)
	if err != nil {
		return Report{}, err
	}
	defer rows.text.close()
	err = rows.begin()
	for more := true; more && err == nil; {
		more, err = rows.load(ctx, store)
	}
	// The transaction is over; look for more bad rows to tell of at once.
	for errors.Is(err, ErrBadRows) && !rows.report.MoreBad && ctx.Err() == nil {
		if _, again := rows.next(); again != nil && !errors.Is(again, ErrBadRows) {
			break
		}
	}
	return rows.told(), errors.Join(err, rows.flush())
}

// told is the report so far.
func (r *rowReader) told() Report {
	report := r.report
	report.Encoding, report.Packing = r.text.encoding(), r.text.packed
	report.LookSwapped = r.looksSwapped()
	return report
}

// flush writes the bad rows so far.
func (r *rowReader) flush() error {
	if r.rejects == nil {
		return nil
	}
	r.rejects.Flush()
	return r.rejects.Error()
}

// count adds what became of rows.
func (r *Report) count(l Loaded) {
	r.Stored += l[Inserted]
	r.Changed += l[Changed]
	r.Unchanged += l[Unchanged]
	r.Existing += l[Skipped]
}

// errDryRun makes a load that went well have no effect.
var errDryRun = errors.New("resourceserver: a dry run")

// load stores the next batch and reports whether there are more rows.
func (r *rowReader) load(ctx context.Context, store Store) (more bool, err error) {
	begun := r.report.Rows
	b := Batch{
		By: Admin, OnDuplicate: r.opts.OnDuplicate, DryRun: r.opts.DryRun,
		Rows: func(yield func(Row, error) bool) {
			for {
				if r.opts.Batch > 0 && r.report.Rows-begun >= r.opts.Batch {
					more = true
					return
				}
				m, err := r.next()
				if errors.Is(err, io.EOF) || !yield(m, err) || err != nil {
					return
				}
			}
		},
	}
	if r.opts.Own {
		b.By = Owner(r.opts.Owner)
	}
	r.first = r.made
	if r.opts.SkipBad {
		b.Reject = r.reject
	}
	if r.opts.step != nil {
		b.Step = func(l Loaded) (Job, error) {
			if err := r.flush(); err != nil {
				return Job{}, err
			}
			report := r.told()
			report.count(l)
			report.Done = r.row()
			return r.opts.step(report, !more)
		}
	}
	l, err := store.Load(ctx, b)
	if bad, ok := errors.AsType[*BatchError](err); ok {
		r.reject(bad)
		if !errors.Is(err, ErrDuplicate) {
			err = fmt.Errorf("%w: %w", ErrBadRows, err)
		}
	}
	if err != nil {
		return false, err
	}
	r.report.count(l)
	if !r.opts.DryRun {
		r.report.Done = r.row()
	}
	return more, nil
}

// rowReader makes inmuebles of the rows of a file.
type rowReader struct {
	text     *text
	lines    lines
	opts     ImportOptions
	columns  []column
	columnOf [len(fields)]string // the column that each field comes from, for messages
	have     seen                // the fields that have a column
	report   Report
	rejects  *csv.Writer

	// Where the last inmuebles were in the file, by their number modulo
	// lookBack: a store tells of a bad one that late.
	places [lookBack]placed
	made   int // inmuebles so far
	first  int // of them before the present batch

	inSpain, swapped int // places in Spain, and with x and y changed
}

// placed is where a row was, and what, if that may be asked for.
type placed struct {
	line int
	row  string
}

func newRowReader(r io.Reader, opts ImportOptions) (*rowReader, error) {
	text, err := newText(r, opts.Encoding, opts.MaxUnpacked)
	if err != nil {
		return nil, err
	}
	rows := &rowReader{text: text, opts: opts, lines: lines{r: bufio.NewReaderSize(text, lookAhead), comma: ','}}
	if opts.Rejects != nil {
		rows.rejects = csv.NewWriter(opts.Rejects)
	}
	return rows, nil
}

// row is the number of the last row read, from 1.
func (r *rowReader) row() int { return max(r.opts.From, 1) - 1 + r.report.Rows }

// begin finds out what the file is, reads the header, and comes to the first
// row that is wanted.
func (r *rowReader) begin() error {
	start, err := r.lines.r.Peek(1)
	for err == nil && strings.ContainsRune(" \t\r\n", rune(start[0])) {
		if start[0] == '\n' {
			r.lines.line++
		}
		_, _ = r.lines.r.Discard(1) // it is in the buffer
		start, err = r.lines.r.Peek(1)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("resourceserver: read the file: %w", err)
	}
	if r.report.Format = r.opts.Format; r.report.Format == "" {
		r.report.Format = FormatCSV
		switch {
		case len(start) > 0 && start[0] == '{':
			r.report.Format = FormatNDJSON
		case len(start) > 0 && start[0] == '[':
			r.report.Format = FormatJSON
		}
	}
	if r.rejects != nil && !r.opts.resumed {
		_ = r.rejects.Write([]string{"line", "column", "reason", "row"}) // Import asks for its error
	}
	if r.report.Format == FormatCSV {
		if err := r.readHeader(); err != nil {
			return err
		}
	} else {
		for i := range fields {
			r.columnOf[i] = fields[i].name
		}
	}
	for i := 1; i < r.opts.From; i++ {
		switch r.report.Format {
		case FormatCSV:
			_, _, err = r.lines.record()
		case FormatJSON:
			_, err = r.lines.element()
		default:
			_, err = r.lines.next()
		}
		if err != nil && rowFault(err) == "" && !errors.Is(err, io.EOF) {
			return fmt.Errorf("resourceserver: read the file: %w", err)
		}
	}
	return nil
}

// next reads rows up to one that makes an inmueble. It returns io.EOF at the
// end, ErrBadRows for a bad row, which it has put into the report, or the
// reader's error; after ErrBadRows it can be called again.
func (r *rowReader) next() (Row, error) {
	for {
		row, line, wrong, skip, err := r.read()
		if errors.Is(err, io.EOF) {
			return Row{}, io.EOF
		}
		if err != nil {
			return Row{}, fmt.Errorf("resourceserver: read the file after line %d: %w", line, err)
		}
		if r.report.Rows%1000 == 0 && r.opts.Progress != nil {
			r.opts.Progress(r.row())
		}
		switch {
		case skip:
			r.report.Skipped++
		case wrong != nil:
			r.bad(placed{line, r.lines.row()}, wrong)
			if !r.opts.SkipBad {
				return Row{}, ErrBadRows
			}
		default:
			at := &r.places[r.made%lookBack]
			at.line = line
			if r.opts.SkipBad {
				at.row = r.lines.row()
			}
			r.made++
			r.look(&row.Inmueble)
			if r.opts.Draft != nil {
				r.opts.Draft.add(&row)
			}
			return row, nil
		}
	}
}

// read reads and judges one row.
func (r *rowReader) read() (row Row, line int, wrong ValidationError, skip bool, err error) {
	switch r.report.Format {
	case FormatNDJSON, FormatJSON:
		next := r.lines.next
		if r.report.Format == FormatJSON {
			next = r.lines.element
		}
		if line, err = next(); err == nil {
			r.report.Rows++
			row, wrong = r.parseJSON(r.lines.raw)
		}
	default:
		var record []string
		record, line, err = r.lines.record()
		if err == nil && len(record) != len(r.columns) {
			err = errFieldCount
		}
		if err == nil {
			r.report.Rows++
			row, wrong, skip = r.parseCSV(record)
		}
	}
	switch {
	case err != nil && rowFault(err) != "":
		r.report.Rows++
		return Row{}, line, ValidationError{{"", rowFault(err)}}, false, nil
	case err != nil || wrong != nil || skip:
		return row, line, wrong, skip, err
	}
	return row, line, r.complete(&row), false, nil
}

// Spain, with all its islands, by which coordinates the wrong way round are
// noticed.
const spainWest, spainEast, spainSouth, spainNorth = -18.5, 4.6, 27.4, 44.0

// look counts what is told at the end.
func (r *rowReader) look(m *Inmueble) {
	if !isDate(m.Date) || !isDate(m.DateIn) {
		r.report.OtherDates++
	}
	in := func(x, y float64) bool { return x >= spainWest && x <= spainEast && y >= spainSouth && y <= spainNorth }
	switch {
	case in(m.XCoord, m.YCoord):
		r.inSpain++
	case in(m.YCoord, m.XCoord):
		r.swapped++
	}
}

// looksSwapped is for few places as sure as for many: hardly anything but a
// swap puts most of a Spanish file into the Indian Ocean.
func (r *rowReader) looksSwapped() bool { return r.swapped > r.inSpain && r.swapped*2 > r.made }

// bad tells of a bad row.
func (r *rowReader) bad(at placed, wrong ValidationError) {
	if r.opts.SkipBad {
		r.report.Rejected++
	}
	reasons := make([]string, len(wrong))
	for i, e := range wrong {
		column := strings.ToValidUTF8(e.Field, "\uFFFD")
		reasons[i] = strings.TrimSpace(column + " " + e.Reason.String())
		if len(r.report.Bad) == maxReported {
			r.report.MoreBad = true
			continue
		}
		r.report.Bad = append(r.report.Bad, RowError{at.line, column, e.Reason})
	}
	if r.rejects != nil {
		_ = r.rejects.Write([]string{strconv.Itoa(at.line), strings.ToValidUTF8(wrong[0].Field, "\uFFFD"), strings.Join(reasons, "; "), at.row})
	}
}

// reject tells of a row that the store can't take.
func (r *rowReader) reject(e *BatchError) {
	at := r.places[(r.first+e.Ordinal)%lookBack]
	var wrong ValidationError
	switch {
	case errors.As(e.Err, &wrong):
		wrong = slices.Clone(wrong)
		for i := range wrong {
			wrong[i].Reason = i18n.Textf("%s, since there is no such inmueble to change", wrong[i].Reason)
		}
	case errors.Is(e.Err, ErrDuplicate):
		wrong = ValidationError{{r.columnOf[0], "is taken, in the database or further up in the file"}}
	case errors.Is(e.Err, ErrNotOwner):
		wrong = ValidationError{{r.columnOf[0], "is that of somebody else's inmueble"}}
	default:
		wrong = ValidationError{{r.columnOf[0], "is that of a stored document that can't be read"}}
	}
	r.bad(at, wrong)
}

// readHeader reads the first row and finds out which column is what. It comes
// before the first next.
func (r *rowReader) readHeader() error {
	r.lines.comma = r.opts.Delimiter
	if r.lines.comma == 0 {
		r.lines.comma = r.detectDelimiter()
	}
	r.report.Delimiter = r.lines.comma
	header, _, err := r.lines.record()
	switch {
	case errors.Is(err, io.EOF):
		return &headerError{"the file is empty", nil}
	case err != nil:
		if reason := rowFault(err); reason != "" {
			return &headerError{i18n.Textf("it %s", reason), err}
		}
		return fmt.Errorf("%w: it %w", ErrHeader, err)
	}
	for _, name := range header {
		name = strings.TrimSpace(name)
		c := columnNamed(name)
		if c.first < 0 {
			r.unknown(name)
			r.columns = append(r.columns, c)
			continue
		}
		for i := c.first; i <= c.last; i++ {
			if r.have&(1<<i) != 0 {
				return &headerError{i18n.Textf("%s and %s are the same", r.columnOf[i], name), nil}
			}
			r.have.mark(i)
			r.columnOf[i] = name
		}
		r.columns = append(r.columns, c)
	}
	lacking := r.have.missing(1)
	if r.opts.OnDuplicate == MergeDuplicate { // what is there has the rest
		lacking = r.have.missing(0)
		lacking = slices.DeleteFunc(lacking, func(e FieldError) bool { return e.Field != "_id" })
	}
	if len(lacking) > 0 {
		names := make([]string, len(lacking))
		for i, e := range lacking {
			switch names[i] = e.Field; e.Field {
			case "other_id":
				names[i] = "id"
			case "_id":
				names[i] = "id_uda"
			}
		}
		return &headerError{i18n.Textf("it lacks %s", strings.Join(names, ", ")), nil}
	}
	for i := range fields {
		if r.columnOf[i] == "" {
			r.columnOf[i] = fields[i].name
		}
	}
	if r.have&1 == 0 {
		r.columnOf[0] = "id_uda"
	}
	return nil
}

// detectDelimiter takes the one that makes most known columns of the first
// line. Excel may have written it into a line of its own before.
func (r *rowReader) detectDelimiter() byte {
	start, _ := r.lines.r.Peek(lookAhead) // what there is
	line, _, _ := bytes.Cut(start, []byte("\n"))
	if len(line) >= 5 && bytes.EqualFold(line[:4], []byte("sep=")) && len(bytes.TrimSpace(line[5:])) == 0 {
		_, _ = r.lines.r.Discard(min(len(line)+1, len(start))) // it is in the buffer
		r.lines.line++
		return line[4]
	}
	best, most := byte(','), 0
	for _, comma := range []byte{',', ';', '\t'} {
		known := 0
		for name := range bytes.SplitSeq(line, []byte{comma}) {
			if c := columnNamed(strings.Trim(string(name), " \"\r")); c.first >= 0 {
				known++
			}
		}
		if known > most {
			best, most = comma, known
		}
	}
	return best
}
