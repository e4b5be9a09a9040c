package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/urbandata/urbandata/resourceserver"
)

type importCmd struct {
	File  string `arg:"" placeholder:"FILE" help:"CSV, NDJSON or JSON file, or - for standard input."`
	Owner string `placeholder:"USER-ID" help:"The user (id, not address) who will own the inmuebles. Without one only an admin can change them."`

	Format      string `default:"auto" enum:"auto,csv,ndjson,json" placeholder:"auto" help:"csv, ndjson, or json for one array; by the first character if not set."`
	Encoding    string `default:"auto" enum:"auto,utf-8,utf-16le,utf-16be,windows-1252,latin-1" placeholder:"auto" help:"utf-8, utf-16le, utf-16be, windows-1252 or latin-1; found out if not set."`
	Delimiter   string `default:"auto" enum:"auto,comma,semicolon,tab" placeholder:"auto" help:"Of CSV: comma, semicolon or tab; by the header if not set."`
	Coordinates string `default:"xy" enum:"xy,yx" placeholder:"xy" help:"Which comes first in the column coordinates: xy (longitude) or yx (latitude)."`

	OnDuplicate string `default:"error" enum:"error,skip,replace,merge" placeholder:"error" help:"When an _id exists: error stores nothing, skip keeps what is stored, replace puts the row in its place, merge only the columns that the file has."`
	OnError     string `default:"abort" enum:"abort,skip" placeholder:"abort" help:"At a bad row: abort stores nothing, skip stores the others."`
	Rejects     string `type:"path" placeholder:"PATH" help:"Write bad rows to this file, as CSV: line, column, reason, and the row as it was."`
	DryRun      bool   `help:"Do all but store: check every row, and look for duplicates."`
	Batch       int    `placeholder:"N" help:"Store N rows at a time instead of all or nothing, and say where to resume."`
	From        int    `placeholder:"ROW" help:"Begin at this row, counted from 1 without the header."`

	catalogueFlag  `embed:""`
	InferCatalogue string `type:"path" placeholder:"FILE" help:"Draft a catalogue of the codes that the rows have, into a new file. With --dry-run that is all that is done."`

	inmueblesDatabase `embed:""`
}

// Help is shown by --help.
func (*importCmd) Help() string {
	return `
The file may be packed by gzip or zstd, and in UTF-8 (with or without a mark), UTF-16 or Windows-1252 (Latin-1).

CSV: the first row names the columns, in any order and case: id_uda (becomes _id; one is made where it is empty), id (becomes other_id, letters and digits kept; a row without is skipped), coordinates "x,y" (or x_coord and y_coord, lon and lat), is_active, and the other fields by their names. Empty, null and none are null. Numbers may have a decimal comma. NDJSON: an object a line, with the fields by their names. JSON: an array of such objects.

Without --batch all rows are stored or none, also when it is interrupted or killed. With MongoDB that must be done within transactionLifetimeLimitSeconds (a minute unless set otherwise): use --batch for more. The same file a second time, with --on-duplicate skip or replace, changes nothing.`
}

// onDuplicate are the values of --on-duplicate.
var onDuplicate = map[string]resourceserver.OnDuplicate{
	"error": resourceserver.FailDuplicate, "skip": resourceserver.SkipDuplicate,
	"replace": resourceserver.ReplaceDuplicate, "merge": resourceserver.MergeDuplicate,
}

func (c *importCmd) options() resourceserver.ImportOptions {
	return resourceserver.ImportOptions{
		Owner: c.Owner, Now: time.Now(),
		Format: map[string]string{"csv": resourceserver.FormatCSV, "ndjson": resourceserver.FormatNDJSON, "json": resourceserver.FormatJSON}[c.Format],
		Encoding: map[string]string{
			"utf-8": resourceserver.EncodingUTF8, "utf-16le": resourceserver.EncodingUTF16LE, "utf-16be": resourceserver.EncodingUTF16BE,
			"windows-1252": resourceserver.EncodingWindows1252, "latin-1": resourceserver.EncodingWindows1252,
		}[c.Encoding],
		Delimiter:   map[string]byte{"comma": ',', "semicolon": ';', "tab": '\t'}[c.Delimiter],
		SwapXY:      c.Coordinates == "yx",
		OnDuplicate: onDuplicate[c.OnDuplicate], SkipBad: c.OnError == "skip",
		DryRun: c.DryRun, Batch: c.Batch, From: c.From,
	}
}

// Run imports the file and prints the report.
func (c *importCmd) Run(p *program) (err error) {
	url, err := c.url(p)
	if err != nil {
		return err
	}
	if c.Batch < 0 || c.From < 0 {
		return wrongSetting("--batch or --from", "a number of rows is wanted, 1 or more")
	}
	opts := c.options()
	if opts.Catalogues, err = c.read(); err != nil {
		return err
	}
	if c.InferCatalogue != "" {
		if opts.Catalogues != nil {
			return wrongSetting("--infer-catalogue", "there is one already (--catalogue, URBANDATA_API_CATALOGUE); name one of the two")
		}
		draft, wrong := os.OpenFile(c.InferCatalogue, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // for everybody to read
		if wrong != nil {
			return wrongSetting("--infer-catalogue", "%s can't be made (%s); name a new file in a folder that this user may write to", c.InferCatalogue, reason(wrong))
		}
		opts.Draft = &resourceserver.CatalogueDraft{}
		defer func() { err = c.draft(p, draft, opts.Draft, err) }()
	}
	defer boundMemory()()
	in, size, err := c.open(p)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	if c.Rejects != "" {
		f, err := os.OpenFile(c.Rejects, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return wrongSetting("--rejects", "%s can't be written (%s); name a file in a folder that this user may write to", c.Rejects, reason(err))
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		opts.Rejects = f
	}
	store, closer, err := openInmuebles(p.ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer()) }()

	g := newProgress(p, size)
	opts.Progress = g.rows
	report, err := resourceserver.Import(p.ctx, store, g.reader(in), opts)
	g.end()
	printReport(p.stdout, report, opts)
	switch {
	case err == nil:
		return nil
	case report.Done > 0 && opts.Batch > 0:
		return fmt.Errorf("rows 1 to %d are stored, go on with --from %d: %w", report.Done, report.Done+1, err)
	}
	return fmt.Errorf("nothing was stored: %w", err)
}

// importMemory is what the runtime tries to do with. An import has little in
// use, but the window of a packed file, up to 16 MiB, is part of that, and the
// runtime would else let as much again come together as garbage.
const importMemory = 32 << 20

// boundMemory sets it, unless GOMEMLIMIT says something, and returns what ends
// it.
func boundMemory() (end func()) {
	if before := debug.SetMemoryLimit(-1); before != math.MaxInt64 { // only reads it
		return func() {}
	}
	debug.SetMemoryLimit(importMemory)
	return func() { debug.SetMemoryLimit(math.MaxInt64) }
}

// draft ends the file of --infer-catalogue: there is none of an import that
// failed.
func (c *importCmd) draft(p *program, f *os.File, d *resourceserver.CatalogueDraft, failed error) error {
	if failed != nil {
		return errors.Join(failed, f.Close(), os.Remove(f.Name()))
	}
	text, leftOut := d.File()
	_, err := f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the draft of a catalogue: %w", err)
	}
	fmt.Fprintf(p.stdout, "a catalogue is drafted in %s: say there what the codes mean\n", c.InferCatalogue)
	if len(leftOut) > 0 {
		fmt.Fprintf(p.stdout, "left out of it, because they have too many codes: %s\n", strings.Join(leftOut, ", "))
	}
	return nil
}

// open opens the file and tells its size, or -1.
func (c *importCmd) open(p *program) (io.ReadCloser, int64, error) {
	if c.File == "-" {
		// A read from a pipe ends when its writer likes: an interrupt must not
		// wait for that.
		r, w := io.Pipe()
		go func() {
			_, err := io.Copy(w, p.stdin)
			_ = w.CloseWithError(err)
		}()
		context.AfterFunc(p.ctx, func() { _ = r.CloseWithError(p.ctx.Err()) })
		return r, -1, nil
	}
	f, err := os.Open(c.File)
	if err != nil {
		return nil, 0, wrongSetting("FILE", "%s can't be read (%s); name a CSV, NDJSON or JSON file, or - for standard input", c.File, reason(err))
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		return f, info.Size(), nil
	}
	return f, -1, nil
}

func printReport(w io.Writer, r resourceserver.Report, o resourceserver.ImportOptions) {
	found := []string{r.Format}
	if r.Encoding != "" {
		found = append(found, r.Encoding)
	}
	if name := map[byte]string{';': "semicolons", '\t': "tabs"}[r.Delimiter]; name != "" {
		found = append(found, name)
	}
	if r.Packing != "" {
		found = append(found, r.Packing)
	}
	fmt.Fprintf(w, "read as %s\n", strings.Join(found, ", "))
	stored := "stored"
	if o.DryRun {
		stored = "would be stored"
	}
	fmt.Fprintf(w, "%d rows read, %d %s, %d skipped (no id), %d given a new _id (no id_uda)\n", r.Rows, r.Stored, stored, r.Skipped, r.MadeIDs)
	if o.OnDuplicate != resourceserver.FailDuplicate {
		fmt.Fprintf(w, "of those whose _id exists %d changed, %d were the same already, %d stay as they are\n", r.Changed, r.Unchanged, r.Existing)
	}
	if o.SkipBad {
		fmt.Fprintf(w, "%d bad rows left out\n", r.Rejected)
	}
	if len(r.UnknownColumns) > 0 {
		fmt.Fprintf(w, "columns not known and left out: %s\n", strings.Join(r.UnknownColumns, ", "))
	}
	if r.OtherDates > 0 {
		fmt.Fprintf(w, "%d rows have a date or date_in that is no ISO 8601 date: kept as text\n", r.OtherDates)
	}
	if r.LookSwapped {
		fmt.Fprintln(w, "warning: the coordinates look swapped: most are in Spain with x and y exchanged (--coordinates yx?)")
	}
	for _, bad := range r.Bad {
		fmt.Fprintln(w, bad)
	}
	if r.MoreBad {
		fmt.Fprintln(w, "… and more")
	}
}
