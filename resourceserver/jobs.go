package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// An import over HTTP is a job that outlives the request, and the process:
//
//	POST ─► uploading ─► queued ─► running ─► done
//	            │           │        │  ▲ ├──► failed
//	            │           │        │  │ └──► cancelled
//	            │           │        └──┘ its process died or stopped: another goes on
//	            │           └─► cancelled
//	            └─ broken off: removed
//
// Jobs are in the database, for all replicas to see; so is what was uploaded,
// or beside it for SQLite, which has one process. Each change of a job makes
// its version one more and is refused to who hasn't seen the last, so two
// replicas can't both take one, and a cancellation can't be overlooked.
//
// That holds for the end too: what a job has come to is stored in the same
// step as its rows (Batch.Step). A process that was taken for dead, and isn't,
// finds its version gone and stores nothing; one that dies before that step
// has stored nothing, and one that dies after it has nothing left to do. So no
// row is stored twice, or lost, whoever dies when.

// JobState is where an import is.
type JobState string

// The states. The last three are final.
const (
	JobUploading JobState = "uploading"
	JobQueued    JobState = "queued"
	JobRunning   JobState = "running"
	JobDone      JobState = "done"
	JobFailed    JobState = "failed"
	JobCancelled JobState = "cancelled"
)

// Final reports whether nothing more will happen.
func (s JobState) Final() bool { return s == JobDone || s == JobFailed || s == JobCancelled }

// Job is one import over HTTP.
type Job struct {
	ID      string   `json:"id"`
	Owner   string   `json:"owner"` // sub of who asked, who will own what is stored
	Admin   bool     `json:"admin"` // may change what others own
	State   JobState `json:"state"`
	Version int64    `json:"-"` // of what is stored

	Key   string `json:"key,omitempty"`   // hash of the owner and the Idempotency-Key
	Print string `json:"print,omitempty"` // hash of what was asked for, without the file
	Sum   string `json:"sum,omitempty"`   // hash of the file

	Options JobOptions `json:"options"`
	Size    int64      `json:"size"` // bytes that were uploaded

	Created  time.Time `json:"created"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`

	Attempts int       `json:"attempts,omitempty"` // how often it was begun
	Cancel   bool      `json:"cancel,omitempty"`   // who works on it is to stop
	Report   Report    `json:"report"`             // of what is stored; once final, of everything
	Rejects  int64     `json:"rejects,omitempty"`  // bytes of the list of refused rows that belong to Report
	Read     int64     `json:"read,omitempty"`     // bytes of the upload that were read in the end
	Kept     bool      `json:"kept,omitempty"`     // the upload is still there
	Error    *JobError `json:"error,omitempty"`
}

// JobError is why a job failed.
type JobError struct {
	Code   string    `json:"code"`
	Detail i18n.Kept `json:"detail"`
}

// JobOptions are those of a request, as the command line has them.
type JobOptions struct {
	Format      string      `json:"format,omitempty"`
	Encoding    string      `json:"encoding,omitempty"`
	Delimiter   byte        `json:"delimiter,omitempty"`
	SwapXY      bool        `json:"swap_xy,omitempty"`
	OnDuplicate OnDuplicate `json:"on_duplicate,omitempty"`
	SkipBad     bool        `json:"skip_bad,omitempty"`
	DryRun      bool        `json:"dry_run,omitempty"`
	Batch       int         `json:"batch,omitempty"`
	From        int         `json:"from,omitempty"`
}

// JobProgress is how far a running job is.
type JobProgress struct {
	Rows int   `json:"rows"` // the last row read, from 1
	Read int64 `json:"read"` // bytes of the upload
}

// JobLimits bound the jobs that aren't final.
type JobLimits struct{ PerOwner, Total int }

// What a [JobStore] answers with, wrapped, beside the errors of a [Store].
var (
	// ErrJobChanged: the job isn't as the caller saw it last.
	ErrJobChanged = errors.New("resourceserver: the job was changed by somebody else")
	// ErrOwnersJobs: the owner has as many jobs under way as one may have.
	ErrOwnersJobs = errors.New("resourceserver: too many jobs of one owner")
	// ErrAllJobs: there are as many jobs under way as there may be.
	ErrAllJobs = errors.New("resourceserver: too many jobs")
)

// JobKeyError says that a job with this idempotency key exists.
type JobKeyError struct{ Job Job }

// Error says so.
func (e *JobKeyError) Error() string { return "resourceserver: there is a job with this key" }

// JobStore keeps jobs and their files. What is said of a [Store] holds for it
// too.
type JobStore interface {
	// InsertJob enters a job, of version 1. It returns a *[JobKeyError], or
	// ErrOwnersJobs or ErrAllJobs, and then has entered nothing.
	InsertJob(ctx context.Context, j Job, most JobLimits) error

	// Job returns a job, or ErrNotFound.
	Job(ctx context.Context, id string) (Job, error)

	// Jobs returns the newest jobs before the one named, of one owner or, for
	// "", of all.
	Jobs(ctx context.Context, owner, before string, most int) ([]Job, error)

	// SwapJob stores the job if what is stored has its version, which becomes
	// one more, or returns ErrJobChanged.
	SwapJob(ctx context.Context, j *Job) error

	// DeleteJob removes the job if it has its version, or returns
	// ErrJobChanged.
	DeleteJob(ctx context.Context, j *Job) error

	// BeatJob gives a sign of life of who works on a job and returns the
	// version that is stored, 0 when there is no such job.
	BeatJob(ctx context.Context, id string, p JobProgress) (version int64, err error)

	// Progress is that of the last sign of life, zero if there is none.
	Progress(ctx context.Context, id string) (JobProgress, error)

	// DueJobs returns those that somebody has to take up, the oldest first: the
	// queued ones, and those of which there was no sign of life for jobLease.
	DueJobs(ctx context.Context) ([]Job, error)

	// OldJobs returns final jobs that ended before a time, or whose upload is
	// still there.
	OldJobs(ctx context.Context, before time.Time, most int) ([]Job, error)

	// Recover undoes loads whose process died. With wait it stays until it is
	// clear of each whether it lives.
	Recover(ctx context.Context, wait bool) error

	// Of a file of a job each part is written at where the one before ended.
	// WritePart is durable when it returns. ReadPart returns the part that
	// begins there, or io.EOF behind the last. CutFile leaves the parts before
	// size; a size of 0 removes the file.
	WritePart(ctx context.Context, id string, f JobFile, at int64, data []byte) error
	ReadPart(ctx context.Context, id string, f JobFile, at int64) ([]byte, error)
	CutFile(ctx context.Context, id string, f JobFile, size int64) error
}

// JobFile names a file of a job.
type JobFile string

// The files.
const (
	JobUpload  JobFile = "upload"
	JobRejects JobFile = "rejects"
)

const (
	// jobPart is how much of a file is written or read at once.
	jobPart = 1 << 20

	// Who works on a job gives a sign of life every jobPulse. It is given up
	// for dead after jobLease: later than a large load is, so that this was
	// undone by then. An upload's sign of life is each of its parts.
	jobPulse = loadPulse
	jobLease = loadLease + 5*time.Second
)

// partWriter writes a file of a job part by part.
type partWriter struct {
	ctx   context.Context // an io.Writer's method has none
	store JobStore
	id    string
	file  JobFile
	at    int64 // what is durable
	buf   []byte
}

func (w *partWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), jobPart-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p, written = p[n:], written+n
		if len(w.buf) == jobPart {
			if err := w.flush(); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// flush makes durable what was written.
func (w *partWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if err := w.store.WritePart(w.ctx, w.id, w.file, w.at, w.buf); err != nil {
		return err
	}
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// partReader reads a file of a job up to size.
type partReader struct {
	ctx   context.Context // an io.Reader's method has none
	store JobStore
	id    string
	file  JobFile
	at    int64
	size  int64
	buf   []byte
}

func (r *partReader) Read(p []byte) (int, error) {
	if len(r.buf) == 0 {
		if r.at >= r.size {
			return 0, io.EOF
		}
		part, err := r.store.ReadPart(r.ctx, r.id, r.file, r.at)
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("resourceserver: the job's %s has %d bytes of %d", r.file, r.at, r.size)
		}
		if err != nil {
			return 0, err
		}
		r.buf = part[:min(int64(len(part)), r.size-r.at)]
		r.at += int64(len(r.buf))
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

// marshal is the job as the stores keep it.
func (j *Job) marshal() []byte {
	text, err := json.Marshal(j)
	if err != nil { // it is made of what JSON has
		panic(err)
	}
	return text
}

// parseJob reads what marshal wrote.
func parseJob(document []byte, version int64) (Job, error) {
	j := Job{}
	if err := json.Unmarshal(document, &j); err != nil {
		return Job{}, fmt.Errorf("resourceserver: read a job: %w", err)
	}
	j.Version = version
	return j, nil
}
