package authserver

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/token"
)

// ErrImport says that nothing was stored, because some of it won't do.
var ErrImport = errors.New("authserver: nothing was imported")

// ImportFormat is how a file of users is written.
type ImportFormat string

const (
	// ImportDjango is what Django's dumpdata writes: a JSON array of objects
	// with model, pk and fields. An object is a user if its fields have an
	// email and a password; others are counted and left out. is_superuser
	// becomes the role admin, all other permissions are dropped.
	ImportDjango ImportFormat = "django"

	// ImportCSV is a CSV file (RFC 4180) with a header. Columns: email,
	// password_hash, first_name, last_name, company, language, roles (with
	// spaces between), created_at (RFC 3339), disabled (true or false).
	// Only email is needed.
	ImportCSV ImportFormat = "csv"
)

// ImportOptions are what [Accounts.Import] does.
type ImportOptions struct {
	Format  ImportFormat
	SkipBad bool // store what will do, instead of nothing
	DryRun  bool // store nothing in any case
}

// ImportReport is what became of a file.
type ImportReport struct {
	Imported, Admins, Disabled, WithoutPassword int
	Bad                                         []ImportFault  // users that won't do
	Other                                       map[string]int // Django objects that are no users, by model
}

// ImportFault is one user who won't do.
type ImportFault struct {
	Where  string // line 7, object 3 (auth.user 12)
	Reason string // email is taken; …
}

// imported is a user as a file has it, before it is checked.
type imported struct {
	where     string
	model     string // of an object that is no user
	user      NewUser
	hash      string
	createdAt string
	disabled  bool
	err       error // what is wrong already
}

// Import stores users along with their passwords, all in one transaction. The
// operator vouches for their addresses. With errors that wrap [ErrImport], the
// report says what is wrong; any other error comes from the file or the
// database, and nothing is stored either.
func (a *Accounts) Import(ctx context.Context, file io.Reader, o ImportOptions) (*ImportReport, error) {
	ctx = operating(ctx)
	read := readDjango
	if o.Format == ImportCSV {
		read = readCSV
	}
	report := &ImportReport{Other: map[string]int{}}
	err := a.store.importUsers(ctx, func(insert func(*userRow) error) error {
		for in, err := range read(file) {
			if err != nil {
				return err
			}
			if in.model != "" {
				report.Other[in.model]++
				continue
			}
			row, err := a.importedRow(in)
			if err == nil {
				err = insert(row)
			}
			if reason := faultOf(err); reason != "" {
				report.Bad = append(report.Bad, ImportFault{in.where, reason})
				continue
			}
			if err != nil {
				return err
			}
			report.count(row)
		}
		if len(report.Bad) > 0 && !o.SkipBad || o.DryRun {
			return ErrImport // undoes it all
		}
		return nil
	})
	if errors.Is(err, ErrImport) && o.DryRun && (len(report.Bad) == 0 || o.SkipBad) {
		err = nil
	}
	return report, err
}

func (r *ImportReport) count(u *userRow) {
	r.Imported++
	if slices.Contains(strings.Fields(u.Roles), string(token.RoleAdmin)) {
		r.Admins++
	}
	if u.DisabledAt != nil {
		r.Disabled++
	}
	if h, err := parseHash(u.PasswordHash); err == nil && h.unusable {
		r.WithoutPassword++
	}
}

// faultOf is what is wrong with a user in words, or "" where err is nil or not
// about the user.
func faultOf(err error) string {
	if errors.Is(err, ErrEmailTaken) {
		return "email is taken"
	}
	var field *FieldError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var reasons []string
		for _, e := range joined.Unwrap() {
			if reason := faultOf(e); reason != "" {
				reasons = append(reasons, reason)
			}
		}
		return strings.Join(reasons, "; ")
	}
	if errors.As(err, &field) {
		return field.Error()
	}
	return ""
}

// importedRow checks a user and is what is stored. The error joins
// [*FieldError]s.
func (a *Accounts) importedRow(in *imported) (*userRow, error) {
	if in.err != nil {
		return nil, in.err
	}
	row, err := a.newRow(in.user)
	errs := []error{err}
	if in.hash == "" {
		in.hash = "!" // as Django writes it: nothing fits
	}
	if _, err := parseHash(in.hash); err != nil || in.hash != printable(in.hash, len(in.hash)) {
		format, _, _ := strings.Cut(strings.TrimPrefix(in.hash, "$"), "$")
		if len(format) > 20 || format == in.hash {
			format = "unknown"
		}
		errs = append(errs, &FieldError{"password", i18n.Textf("is stored in a format that isn't read (%s)", printable(format, 20))})
	}
	if reason := badLanguage(in.user.Language); reason != "" {
		errs = append(errs, &FieldError{"language", reason})
	}
	if in.createdAt != "" {
		at, err := time.Parse(time.RFC3339, in.createdAt)
		if err != nil {
			errs = append(errs, &FieldError{"created_at", "must be a time, such as 2024-01-31T08:30:00Z"})
		}
		row.CreatedAt = at.UnixMilli()
	}
	row.PasswordHash = in.hash
	now := a.now().UnixMilli()
	row.EmailVerifiedAt = &now
	if in.disabled {
		row.DisabledAt, row.DisabledBy = &now, byOperator
	}
	return row, errors.Join(errs...)
}

// readDjango reads Django's dumpdata, an object at a time.
func readDjango(file io.Reader) iter.Seq2[*imported, error] {
	return func(yield func(*imported, error) bool) {
		dec := json.NewDecoder(withoutMark(file))
		if t, err := dec.Token(); err != nil || t != json.Delim('[') {
			yield(nil, errors.New("the file is not a JSON array, as dumpdata writes it"))
			return
		}
		for n := 1; dec.More(); n++ {
			var object struct {
				Model  string
				PK     any
				Fields map[string]json.RawMessage
			}
			if err := dec.Decode(&object); err != nil {
				yield(nil, fmt.Errorf("object %d can't be read as one of dumpdata's: after byte %d", n, dec.InputOffset()))
				return
			}
			if !yield(djangoUser(n, object.Model, object.PK, object.Fields), nil) {
				return
			}
		}
		if _, err := dec.Token(); err != nil {
			yield(nil, fmt.Errorf("the file ends too early: after byte %d", dec.InputOffset()))
		}
	}
}

func djangoUser(n int, model string, pk any, fields map[string]json.RawMessage) *imported {
	model = printable(model, 60)
	in := &imported{where: fmt.Sprintf("object %d (%s %s)", n, model, printable(fmt.Sprint(pk), 40))}
	if fields["email"] == nil || fields["password"] == nil {
		in.model = model
		if model == "" {
			in.model = "(no model)"
		}
		return in
	}
	var active, super bool
	active = true
	var errs []error
	for name, to := range map[string]any{
		"email": &in.user.Email, "password": &in.hash, "first_name": &in.user.FirstName, "last_name": &in.user.LastName,
		"company": &in.user.Company, "date_joined": &in.createdAt, "is_active": &active, "is_superuser": &super,
	} {
		if raw := fields[name]; raw != nil && json.Unmarshal(raw, to) != nil {
			errs = append(errs, &FieldError{name, "is not of the type that dumpdata writes"})
		}
	}
	in.err = errors.Join(errs...)
	in.disabled = !active
	if super {
		in.user.Roles = []token.Role{token.RoleAdmin}
	}
	return in
}

// withoutMark drops a byte order mark from the beginning.
func withoutMark(r io.Reader) io.Reader {
	var head [3]byte
	n, err := io.ReadFull(r, head[:])
	if err == nil && string(head[:]) == "\ufeff" {
		return r
	}
	return io.MultiReader(strings.NewReader(string(head[:n])), r)
}

// csvColumns sets a user's values from the columns of a CSV file.
var csvColumns = map[string]func(*imported, string){
	"email":         func(in *imported, v string) { in.user.Email = v },
	"password_hash": func(in *imported, v string) { in.hash = v },
	"first_name":    func(in *imported, v string) { in.user.FirstName = v },
	"last_name":     func(in *imported, v string) { in.user.LastName = v },
	"company":       func(in *imported, v string) { in.user.Company = v },
	"language":      func(in *imported, v string) { in.user.Language = v },
	"created_at":    func(in *imported, v string) { in.createdAt = v },
	"roles":         func(in *imported, v string) { in.user.Roles = parseRoles(v) },
	"disabled": func(in *imported, v string) {
		var err error
		if v != "" {
			if in.disabled, err = strconv.ParseBool(v); err != nil {
				in.err = errors.Join(in.err, &FieldError{"disabled", "must be true or false"})
			}
		}
	},
}

func readCSV(file io.Reader) iter.Seq2[*imported, error] {
	return func(yield func(*imported, error) bool) {
		r := csv.NewReader(withoutMark(file))
		header, err := r.Read()
		if err != nil {
			yield(nil, errors.New("the file has no header"))
			return
		}
		for i, name := range header {
			if csvColumns[name] == nil || slices.Contains(header[:i], name) {
				yield(nil, fmt.Errorf("the header has a column %q that is unknown or there twice; columns are %s",
					printable(name, 40), strings.Join(slices.Sorted(maps.Keys(csvColumns)), ", ")))
				return
			}
		}
		if !slices.Contains(header, "email") {
			yield(nil, errors.New("the header has no column email"))
			return
		}
		for {
			record, err := r.Read()
			if errors.Is(err, io.EOF) {
				return
			}
			var parse *csv.ParseError
			if errors.As(err, &parse) {
				err = fmt.Errorf("line %d can't be read as CSV: %w", parse.Line, parse.Err)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			line, _ := r.FieldPos(0)
			in := &imported{where: fmt.Sprintf("line %d", line)}
			for i, value := range record {
				csvColumns[header[i]](in, value)
			}
			if !yield(in, nil) {
				return
			}
		}
	}
}
