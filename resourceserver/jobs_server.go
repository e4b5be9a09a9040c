package resourceserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	stdhash "hash"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humamux"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/web"
)

const (
	pathImport  = "/inmuebles/import"
	pathImports = "/inmuebles/imports"
	pathJob     = "/inmuebles/imports/{id}"
	pathRejects = "/inmuebles/imports/{id}/rejects"

	typeEvents = "text/event-stream"
	typeCSV    = "text/csv"

	maxJobs     = 100 // of a page
	defaultJobs = 20
)

// importTypes are the media types of an upload, and the formats that they
// name; "" is found out.
var importTypes = map[string]string{
	typeCSV: FormatCSV, typeNDJSON: FormatNDJSON, typeJSON: FormatJSON,
	"application/gzip": "", "application/zstd": "", "application/octet-stream": "",
}

// importRoutes registers the operations of imports.
func (s *Server) importRoutes(a *web.API) {
	if s.jobs == nil {
		return
	}
	schemas := a.Huma.OpenAPI().Components.Schemas
	job := jobSchema(schemas)
	bound := maxJobs
	op := func(method, path, scope, id, summary string, errors ...int) huma.Operation {
		a.Declare(method, path, scope)
		return huma.Operation{
			Method: method, Path: path, OperationID: id, Summary: summary, Tags: []string{"imports"},
			Security: append(web.Scopes(scope), map[string][]string{verify.LegacyHeader: {}}),
			Errors: append([]int{
				http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden,
				http.StatusUnprocessableEntity, http.StatusServiceUnavailable,
			}, errors...),
			Responses: map[string]*huma.Response{},
		}
	}
	answer := func(op *huma.Operation, status int, mediaType string, schema *huma.Schema, description string) {
		op.DefaultStatus = status
		op.Responses[strconv.Itoa(status)] = &huma.Response{Description: description, Content: map[string]*huma.MediaType{mediaType: {Schema: schema}}}
	}

	start := op(http.MethodPost, pathImport, write, "import-inmuebles", "Import inmuebles from a file",
		http.StatusRequestTimeout, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusTooManyRequests)
	start.Metadata = web.AsSent
	answer(&start, http.StatusAccepted, typeJSON, job, "The file is here, and will be imported: Location says where to look")
	huma.Register(a.Huma, start, s.startImport)
	body := &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{}, Description: "The file, as the command urbandata import takes it: " +
		"CSV, NDJSON, or JSON as one array; it may be packed by gzip or zstd, with or without Content-Encoding. " +
		fmt.Sprintf("At most %d bytes, as it is sent.", s.imports.MaxBytes)}
	for mediaType := range importTypes {
		body.Content[mediaType] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	}
	body.Content[typeJSON].Schema = &huma.Schema{Type: huma.TypeArray, Items: elementSchema(schemas)}
	a.Huma.OpenAPI().Paths[pathImport].Post.RequestBody = body // only now: else huma would read it

	list := op(http.MethodGet, pathImports, read, "list-imports", "One's imports, the newest first; all of them with inmuebles:admin")
	answer(&list, http.StatusOK, typeJSON, &huma.Schema{Type: huma.TypeArray, Items: job, MaxItems: &bound}, "A page")
	huma.Register(a.Huma, list, s.listImports)

	get := op(http.MethodGet, pathJob, read, "get-import", "How an import stands; with Accept: text/event-stream, whenever that changes",
		http.StatusNotFound, http.StatusNotAcceptable, http.StatusTooManyRequests)
	answer(&get, http.StatusOK, typeJSON, job, "The import")
	get.Responses["200"].Content[typeEvents] = &huma.MediaType{Schema: &huma.Schema{
		Type: huma.TypeString, Description: "Server-sent events of the type import, whose data is what JSON has, until the import has ended",
	}}
	huma.Register(a.Huma, get, s.getImport)
	answers(a.Huma.OpenAPI().Paths[pathJob].Get, http.StatusNotModified, nil, "The client has it: If-None-Match", http.StatusOK)

	cancel := op(http.MethodDelete, pathJob, write, "cancel-import", "Cancel an import", http.StatusNotFound, http.StatusConflict)
	answer(&cancel, http.StatusOK, typeJSON, job, "It is cancelled")
	huma.Register(a.Huma, cancel, s.cancelImport)
	answers(a.Huma.OpenAPI().Paths[pathJob].Delete, http.StatusAccepted, job, "It will be: who works on it was told", http.StatusOK)

	rejects := op(http.MethodGet, pathRejects, read, "get-import-rejects", "The rows that were refused, as CSV: line, column, reason, and the row as it was",
		http.StatusNotFound, http.StatusConflict)
	answer(&rejects, http.StatusOK, typeCSV, &huma.Schema{Type: huma.TypeString}, "The rows")
	huma.Register(a.Huma, rejects, s.importRejects)
}

// importStatus is a job as the API answers it.
type importStatus struct {
	ID         string  `json:"id" doc:"Of the import"`
	State      string  `json:"state" enum:"queued,running,cancelling,done,failed,cancelled,uploading" doc:"done, failed and cancelled are final"`
	Owner      string  `json:"owner" doc:"Who asked for it, and owns what is stored"`
	CreatedAt  string  `json:"created_at" format:"date-time" doc:"When the upload began"`
	StartedAt  *string `json:"started_at" format:"date-time" nullable:"true" doc:"When it was first worked on"`
	FinishedAt *string `json:"finished_at" format:"date-time" nullable:"true" doc:"When it became final"`
	Attempts   int     `json:"attempts" doc:"How often it was begun: more than once when a server ended before it did"`

	Size int64 `json:"size" doc:"Bytes of the upload"`
	Read int64 `json:"read" doc:"Bytes of it that are read"`
	Row  int   `json:"row" doc:"The last row that was read, from 1"`

	DryRun    bool   `json:"dry_run" doc:"Nothing is stored: stored says what would be"`
	Format    string `json:"format" doc:"As found: CSV, NDJSON or JSON"`
	Encoding  string `json:"encoding" doc:"As found; empty for ASCII"`
	Packing   string `json:"packing" doc:"gzip, zstd or empty"`
	Delimiter string `json:"delimiter" doc:"Of CSV"`

	Rows      int `json:"rows" doc:"Rows read, of what is stored; of all, once it is final"`
	Stored    int `json:"stored" doc:"New inmuebles"`
	Changed   int `json:"changed" doc:"Replaced or merged"`
	Unchanged int `json:"unchanged" doc:"Were there already, as they are in the file"`
	Existing  int `json:"existing" doc:"Were there already and stay, whatever the file has"`
	Skipped   int `json:"skipped" doc:"Rows without an id"`
	Rejected  int `json:"rejected" doc:"Bad rows left out"`
	MadeIDs   int `json:"made_ids" doc:"Rows that were given a new _id"`
	Done      int `json:"done" doc:"The last row that is stored: an import from the next one goes on"`

	UnknownColumns []string       `json:"unknown_columns" doc:"Were left out"`
	OtherDates     int            `json:"other_dates" doc:"Rows whose date or date_in is no ISO 8601 date: kept as text"`
	LookSwapped    bool           `json:"look_swapped" doc:"The coordinates look swapped: most are in Spain with x and y exchanged"`
	Errors         []importBadRow `json:"errors" doc:"What is wrong with the first rows that are bad"`
	MoreErrors     bool           `json:"more_errors" doc:"There are others: see rejects"`
	Rejects        *string        `json:"rejects" nullable:"true" doc:"Where the list of refused rows is, once the import is final"`
	Error          *importFailure `json:"error,omitempty" doc:"Why it failed; absent otherwise"`
}

type importBadRow struct {
	Line   int    `json:"line" doc:"Of the file, from 1"`
	Column string `json:"column" doc:"As the header names it; empty for the whole row"`
	Reason string `json:"reason" doc:"What is wrong with it, in the language of Content-Language"`
}

type importFailure struct {
	Code   string `json:"code" doc:"The same in every language"`
	Detail string `json:"detail" doc:"For a person, in the language of Content-Language"`
}

func jobSchema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[importStatus](), true, "Import")
}

// view is what the API says of a job, in a language.
func view(l *i18n.Language, j *Job, p JobProgress) importStatus {
	r := &j.Report
	at := func(t time.Time) *string {
		if t.IsZero() {
			return nil
		}
		text := t.UTC().Format(timeLayout)
		return &text
	}
	v := importStatus{
		ID: j.ID, State: string(j.State), Owner: j.Owner, Attempts: j.Attempts,
		CreatedAt: *at(j.Created), StartedAt: at(j.Started), FinishedAt: at(j.Finished),
		Size: j.Size, Read: min(max(p.Read, j.Read), j.Size), Row: max(p.Rows, r.Done),
		DryRun: j.Options.DryRun, Format: r.Format, Encoding: r.Encoding, Packing: r.Packing,
		Rows: r.Rows, Stored: r.Stored, Changed: r.Changed, Unchanged: r.Unchanged, Existing: r.Existing,
		Skipped: r.Skipped, Rejected: r.Rejected, MadeIDs: r.MadeIDs, Done: r.Done,
		UnknownColumns: r.UnknownColumns, OtherDates: r.OtherDates, LookSwapped: r.LookSwapped, MoreErrors: r.MoreBad,
		Errors: make([]importBadRow, len(r.Bad)),
	}
	if j.Error != nil {
		v.Error = &importFailure{j.Error.Code, l.Say(j.Error.Detail.Text())}
	}
	if v.UnknownColumns == nil {
		v.UnknownColumns = []string{}
	}
	if r.Delimiter != 0 {
		v.Delimiter = string(rune(r.Delimiter))
	}
	for i, bad := range r.Bad {
		v.Errors[i] = importBadRow{bad.Line, bad.Column, l.Say(bad.Reason)}
	}
	switch {
	case j.State == JobRunning && j.Cancel:
		v.State = "cancelling"
	case j.State.Final():
		where := pathImports + "/" + j.ID + "/rejects"
		v.Rejects = &where
		v.Row = max(j.Options.From, 1) - 1 + r.Rows
		if j.State == JobDone {
			v.Read = j.Size
		}
	}
	return v
}

func (v *importStatus) json() []byte {
	text, err := json.Marshal(v)
	if err != nil { // it is made of what JSON has
		panic(err)
	}
	return text
}

type importInput struct {
	Format      string `query:"format" enum:"auto,csv,ndjson,json" default:"auto" doc:"What the file is; by the Content-Type or the first character unless said"`
	Encoding    string `query:"encoding" enum:"auto,utf-8,utf-16le,utf-16be,windows-1252,latin-1" default:"auto" doc:"By the charset of the Content-Type, or found out, unless said"`
	Delimiter   string `query:"delimiter" enum:"auto,comma,semicolon,tab" default:"auto" doc:"Of CSV; by the header unless said"`
	Coordinates string `query:"coordinates" enum:"xy,yx" default:"xy" doc:"Which comes first in the column coordinates: xy (longitude) or yx (latitude)"`
	OnDuplicate string `query:"on-duplicate" enum:"error,skip,replace,merge" default:"error" doc:"When an _id exists: error stores nothing, skip keeps what is stored, replace puts the row in its place, merge only the columns that the file has"`
	OnError     string `query:"on-error" enum:"abort,skip" default:"abort" doc:"At a bad row: abort stores nothing, skip stores the others"`
	DryRun      bool   `query:"dry-run" doc:"Do all but store"`
	Batch       int    `query:"batch" minimum:"1" maximum:"1000000" doc:"Store so many rows at a time instead of all or nothing"`
	From        int    `query:"from" minimum:"1" maximum:"2147483647" doc:"Begin at this row, counted from 1 without the header"`
	Key         string `header:"Idempotency-Key" maxLength:"255" doc:"Any text, new for each new import: the same file with the same key is imported once, while the import is kept"`
	Type        string `header:"Content-Type" hidden:"true"`
	Coding      string `header:"Content-Encoding" doc:"gzip or zstd for a packed file; it is unpacked without being told, too"`

	request *http.Request
	writer  http.ResponseWriter
}

// Resolve keeps the request: its body is read as it comes.
func (in *importInput) Resolve(ctx huma.Context) []error {
	in.request, in.writer = humamux.Unwrap(ctx)
	return nil
}

// charsets are the encodings by the names that HTTP has for them.
var charsets = map[string]string{
	"": "", "us-ascii": "", "utf-8": EncodingUTF8, "utf-16le": EncodingUTF16LE, "utf-16be": EncodingUTF16BE,
	"windows-1252": EncodingWindows1252, "iso-8859-1": EncodingWindows1252, "latin-1": EncodingWindows1252, "latin1": EncodingWindows1252,
}

// options are those that the request has, or a refusal of its header fields.
func (in *importInput) options() (JobOptions, error) {
	mediaType, params, _ := mime.ParseMediaType(in.Type) // package web has read it
	encoding, ok := charsets[strings.ToLower(params["charset"])]
	if !ok {
		return JobOptions{}, web.NewProblem(http.StatusUnsupportedMediaType, "unsupported_media_type",
			"A file may be in utf-8, utf-16le, utf-16be, windows-1252 or iso-8859-1.")
	}
	switch strings.ToLower(in.Coding) {
	case "", "identity", "gzip", "x-gzip", "zstd":
	default:
		return JobOptions{}, web.NewProblem(http.StatusUnsupportedMediaType, "unsupported_content_coding",
			"A file may be packed by gzip or zstd.").With("Accept-Encoding", "gzip, zstd, identity")
	}
	o := JobOptions{
		Format: importTypes[mediaType], Encoding: encoding,
		Delimiter:   map[string]byte{"comma": ',', "semicolon": ';', "tab": '\t'}[in.Delimiter],
		SwapXY:      in.Coordinates == "yx",
		OnDuplicate: map[string]OnDuplicate{"skip": SkipDuplicate, "replace": ReplaceDuplicate, "merge": MergeDuplicate}[in.OnDuplicate],
		SkipBad:     in.OnError == "skip", DryRun: in.DryRun, Batch: in.Batch, From: in.From,
	}
	if f := (map[string]string{"csv": FormatCSV, "ndjson": FormatNDJSON, "json": FormatJSON})[in.Format]; f != "" {
		o.Format = f
	}
	if e := charsets[in.Encoding]; e != "" {
		o.Encoding = e
	}
	return o, nil
}

type jobOutput struct {
	Status   int
	Location string   `header:"Location" doc:"Where the import is"`
	Language string   `header:"Content-Language" doc:"Of what is wrong with it"`
	Vary     []string `header:"Vary"` // a slice is added to what the CORS layer says
	Body     any
}

func (s *Server) jobAnswer(ctx context.Context, status int, j *Job, p JobProgress) *jobOutput {
	l := web.Language(ctx)
	v := view(l, j, p)
	body := v.json()
	return &jobOutput{status, pathImports + "/" + j.ID, l.Tag, []string{"Accept-Language"}, jsontext.Value(body)}
}

// partTimeout is how long a client may take for one part of a file: 17 kB/s
// are enough.
const partTimeout = time.Minute

// startImport takes a file, part by part, and queues it.
func (s *Server) startImport(ctx context.Context, in *importInput) (*jobOutput, error) {
	o, err := in.options()
	if err != nil {
		return nil, err
	}
	sub, by := asker(ctx)
	j := Job{
		ID: NewID(), Owner: sub, Admin: by.anyone, State: JobUploading, Version: 1, Options: o,
		Created: stamp(s.now()), Kept: true,
	}
	asked, err := json.Marshal(o)
	if err != nil { // it is made of what JSON has
		return nil, err
	}
	if j.Print = hash(string(asked)); in.Key != "" {
		j.Key = hash(sub, in.Key)
	}
	upload := &upload{s: s, in: in, sum: sha256.New()}
	err = s.jobs.InsertJob(ctx, j, JobLimits{s.imports.PerOwner, s.imports.Total})
	if before, ok := errors.AsType[*JobKeyError](err); ok {
		return s.importedBefore(ctx, upload, &before.Job, j.Print)
	}
	if err != nil {
		return nil, s.jobProblem(ctx, j.ID, err)
	}
	// From here on the upload has its own time, not the request's.
	uploading, stop := context.WithCancelCause(in.request.Context())
	defer stop(nil)
	go upload.beat(uploading, j.ID, stop)
	err = upload.store(uploading, &j)
	if err == nil {
		j.State, j.Sum = JobQueued, hex.EncodeToString(upload.sum.Sum(nil))
		err = s.inTime(uploading, func(ctx context.Context) error { return s.jobs.SwapJob(ctx, &j) })
	}
	if err != nil {
		if errors.Is(context.Cause(uploading), ErrJobChanged) {
			err = ErrJobChanged
		}
		stop(nil)
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		_ = s.discard(leaving, &j) // if that fails, somebody takes it up as dead
		return nil, s.jobProblem(in.request.Context(), j.ID, err)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return s.jobAnswer(ctx, http.StatusAccepted, &j, JobProgress{}), nil
}

// importedBefore answers a request whose key has a job: the same, if it is
// the same request.
func (s *Server) importedBefore(ctx context.Context, u *upload, j *Job, asked string) (*jobOutput, error) {
	switch {
	case j.Print != asked:
		return nil, s.problem(ctx, "", ErrOtherRequest)
	case j.State == JobUploading:
		return nil, s.problem(ctx, "", ErrInProgress)
	}
	if err := u.read(u.in.request.Context(), func([]byte) error { return nil }); err != nil {
		return nil, s.jobProblem(u.in.request.Context(), j.ID, err)
	}
	if hex.EncodeToString(u.sum.Sum(nil)) != j.Sum {
		return nil, s.problem(ctx, "", ErrOtherRequest)
	}
	return s.jobAnswer(ctx, http.StatusAccepted, j, JobProgress{}), nil
}

// inTime gives one call of the database the time that a request has.
func (s *Server) inTime(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return f(ctx)
}

// upload is the body of a request, read as it comes.
type upload struct {
	s    *Server
	in   *importInput
	sum  stdhash.Hash
	size int64
}

// beat says that the upload lives, until ctx ends, and stops it when it was
// cancelled.
func (u *upload) beat(ctx context.Context, id string, stop context.CancelCauseFunc) {
	tick := time.NewTicker(jobPulse)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			version, err := u.s.jobs.BeatJob(ctx, id, JobProgress{})
			if err == nil && version != 1 { // an error may be gone at the next tick
				stop(ErrJobChanged)
				return
			}
		}
	}
}

// store stores the body.
func (u *upload) store(ctx context.Context, j *Job) error {
	w := &partWriter{ctx: ctx, store: u.s.jobs, id: j.ID, file: JobUpload}
	err := u.read(ctx, func(part []byte) error {
		_, err := w.Write(part)
		return err
	})
	if err == nil {
		err = w.flush()
	}
	j.Size = u.size
	return err
}

// read reads the body to its end, with so much time for each part.
func (u *upload) read(ctx context.Context, part func([]byte) error) error {
	control := http.NewResponseController(u.in.writer)
	body := http.MaxBytesReader(u.in.writer, u.in.request.Body, u.s.imports.MaxBytes)
	buf := make([]byte, jobPart)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		deadline := time.Now().Add(partTimeout)
		_ = control.SetReadDeadline(deadline)                       // a recorder in a test has none
		_ = control.SetWriteDeadline(deadline.Add(2 * partTimeout)) // of what is answered in the end
		n, err := io.ReadFull(body, buf)
		u.size += int64(n)
		u.sum.Write(buf[:n])
		if n > 0 {
			if err := part(buf[:n]); err != nil {
				return err
			}
		}
		var tooLarge *http.MaxBytesError
		switch {
		case err == nil:
		case errors.As(err, &tooLarge):
			return web.NewProblem(http.StatusRequestEntityTooLarge, "too_large",
				i18n.Textf("A file may have at most %d bytes. Send it packed, or in several.", u.s.imports.MaxBytes))
		case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return err
		case u.size == 0:
			return web.NewProblem(http.StatusBadRequest, "malformed", "The request needs a body.")
		default:
			return ctx.Err()
		}
	}
}

// jobProblem is the answer to an error of the store of jobs.
func (s *Server) jobProblem(ctx context.Context, id string, err error) error {
	var p *web.Problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, ErrNotFound):
		return web.NewProblem(http.StatusNotFound, "not_found", i18n.Textf("Import with ID %s does not exist", shown(id)))
	case errors.Is(err, ErrOwnersJobs):
		return web.NewProblem(http.StatusTooManyRequests, "too_many_requests", i18n.Textf(
			"You have %d imports under way. Wait for one to end, or cancel one.", s.imports.PerOwner)).With("Retry-After", "10")
	case errors.Is(err, ErrAllJobs):
		return web.Unavailable(30 * time.Second)
	case errors.Is(err, ErrJobChanged):
		return web.NewProblem(http.StatusConflict, "import_changed", "The import was cancelled, or changed, meanwhile: look at it again.")
	}
	return s.problem(ctx, id, err)
}

type importsInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many"`
	Before string `query:"before" pattern:"^[0-9a-f]{24}$" patternDescription:"the id of an import" doc:"Those that are older than this one: rel=next of the Link header has it"`
}

type importsOutput struct {
	Link     string   `header:"Link" doc:"rel=next leads to older ones (RFC 8288)"`
	Language string   `header:"Content-Language" doc:"Of what is wrong with them"`
	Vary     []string `header:"Vary"` // a slice is added to what the CORS layer says
	Body     any
}

func (s *Server) listImports(ctx context.Context, in *importsInput) (*importsOutput, error) {
	sub, by := asker(ctx)
	if by.anyone {
		sub = ""
	}
	jobs, err := s.jobs.Jobs(ctx, sub, in.Before, in.Limit+1)
	if err != nil {
		return nil, s.jobProblem(ctx, "", err)
	}
	l := web.Language(ctx)
	out := &importsOutput{Language: l.Tag, Vary: []string{"Accept-Language"}}
	if len(jobs) > in.Limit {
		jobs = jobs[:in.Limit]
		out.Link = fmt.Sprintf(`<%s?limit=%d&before=%s>; rel="next"`, pathImports, in.Limit, jobs[in.Limit-1].ID)
	}
	body := []byte{'['}
	for i := range jobs {
		if i > 0 {
			body = append(body, ',')
		}
		v := view(l, &jobs[i], s.progressHere(jobs[i].ID))
		body = append(body, v.json()...)
	}
	out.Body = jsontext.Value(append(body, ']'))
	return out, nil
}

// progressHere is that of a job which is worked on here.
func (s *Server) progressHere(id string) JobProgress {
	if r, ok := s.working.Load(id); ok {
		return r.(*jobRun).progress() // nothing else is in there
	}
	return JobProgress{}
}

// look reads a job that the asker may see, and how far it is.
func (s *Server) look(ctx context.Context, id string) (Job, JobProgress, error) {
	sub, by := asker(ctx)
	if !validID(id) {
		return Job{}, JobProgress{}, ErrNotFound
	}
	j, err := s.jobs.Job(ctx, id)
	if err == nil && !by.anyone && j.Owner != sub {
		err = ErrNotFound // whose it is, is nobody's business
	}
	if err != nil {
		return Job{}, JobProgress{}, err
	}
	if j.State != JobRunning {
		return j, JobProgress{}, nil
	}
	p := s.progressHere(id)
	if p == (JobProgress{}) {
		p, err = s.jobs.Progress(ctx, id)
	}
	return j, p, err
}

type jobInput struct {
	ID string `path:"id" doc:"The import's id"`
}

type getJobInput struct {
	ID          string `path:"id" doc:"The import's id"`
	Accept      string `header:"Accept" doc:"text/event-stream for server-sent events"`
	IfNoneMatch string `header:"If-None-Match" doc:"Entity tags that the client holds: 304 while the import is as one says (RFC 9110)"`
	LastEventID string `header:"Last-Event-ID" doc:"The last event that the client has: it isn't sent again"`
}

// watchOutput is an import, or a stream of what becomes of it.
type watchOutput struct {
	Status   int
	Type     string   `header:"Content-Type"`
	Language string   `header:"Content-Language" doc:"Of what is wrong with it"`
	ETag     string   `header:"ETag" doc:"Strong entity tag of the answer, for If-None-Match"`
	Vary     []string `header:"Vary"` // a slice is added to what the CORS layer says
	Body     func(huma.Context)
}

func (s *Server) getImport(ctx context.Context, in *getJobInput) (*watchOutput, error) {
	out := &watchOutput{Status: http.StatusOK, Type: accepted(in.Accept, typeJSON, typeEvents), Vary: []string{"Accept, Accept-Language"}}
	if out.Type == "" {
		return nil, web.NewProblem(http.StatusNotAcceptable, "not_acceptable", i18n.Textf("Only %s and %s can be had here.", typeJSON, typeEvents))
	}
	j, p, err := s.look(ctx, in.ID)
	if err != nil {
		return nil, s.jobProblem(ctx, in.ID, err)
	}
	if out.Type == typeEvents {
		out.Body, err = s.events(ctx, in.ID, in.LastEventID)
		return out, err
	}
	l := web.Language(ctx)
	out.Language = l.Tag
	v := view(l, &j, p)
	body := v.json()
	out.ETag = etagOf(body)
	if held, err := parseTags(in.IfNoneMatch); err == nil && held.given() && held.weak(out.ETag) { // a broken field is ignored
		out.Status, out.Type, body = http.StatusNotModified, "", nil
	}
	out.Body = send(out.Status, body, nil)
	return out, nil
}

// cancelImport has who works on it stop, or ends it where nobody does.
func (s *Server) cancelImport(ctx context.Context, in *jobInput) (*jobOutput, error) {
	for {
		j, p, err := s.look(ctx, in.ID)
		if err == nil && j.State.Final() {
			if j.State == JobCancelled {
				return s.jobAnswer(ctx, http.StatusOK, &j, p), nil
			}
			return nil, web.NewProblem(http.StatusConflict, "import_ended", "The import has ended: there is nothing to cancel.")
		}
		if err != nil {
			return nil, s.jobProblem(ctx, in.ID, err)
		}
		if r, ok := s.working.Load(j.ID); ok {
			run := r.(*jobRun) // nothing else is in there
			run.stop(errJobCancelled)
			select {
			case <-run.done:
				continue
			case <-ctx.Done():
				return nil, s.jobProblem(ctx, in.ID, ctx.Err())
			}
		}
		status := http.StatusOK
		if j.State == JobRunning {
			status = http.StatusAccepted
			if j.Cancel {
				return s.jobAnswer(ctx, status, &j, p), nil
			}
			j.Cancel = true
		} else {
			s.end(&j, JobCancelled, nil)
		}
		err = s.jobs.SwapJob(ctx, &j)
		if errors.Is(err, ErrJobChanged) {
			continue
		}
		if err != nil {
			return nil, s.jobProblem(ctx, in.ID, err)
		}
		if j.State.Final() {
			s.ended(ctx, &j)
		}
		return s.jobAnswer(ctx, status, &j, p), nil
	}
}

type rejectsOutput struct {
	Type        string `header:"Content-Type"`
	Disposition string `header:"Content-Disposition"`
	Body        func(huma.Context)
}

// importRejects streams the list of refused rows.
func (s *Server) importRejects(ctx context.Context, in *jobInput) (*rejectsOutput, error) {
	j, _, err := s.look(ctx, in.ID)
	if err != nil {
		return nil, s.jobProblem(ctx, in.ID, err)
	}
	if !j.State.Final() {
		return nil, web.NewProblem(http.StatusConflict, "import_not_ended", "The import hasn't ended: its list of refused rows isn't whole.").
			With("Retry-After", "5")
	}
	return &rejectsOutput{
		"text/csv; charset=utf-8; header=present", `attachment; filename="rejects-` + j.ID + `.csv"`,
		func(hctx huma.Context) {
			r, w := humamux.Unwrap(hctx)
			control := http.NewResponseController(w)
			file := &partReader{ctx: r.Context(), store: s.jobs, id: j.ID, file: JobRejects, size: j.Rejects}
			buf := make([]byte, 64<<10)
			for {
				n, err := file.Read(buf)
				_ = control.SetWriteDeadline(time.Now().Add(streamTimeout)) // a recorder in a test has none
				if n > 0 {
					if _, wrong := w.Write(buf[:n]); wrong != nil {
						err = wrong
					}
				}
				if errors.Is(err, io.EOF) {
					return
				}
				if err != nil { // the connection is cut: what ends well is whole
					web.NoteCause(r.Context(), err)
					panic(http.ErrAbortHandler)
				}
			}
		},
	}, nil
}
