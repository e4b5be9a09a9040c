package resourceserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// ImportLimits bound imports over HTTP. Of what is zero, the default holds.
type ImportLimits struct {
	MaxBytes int64         // of an upload, as it is sent; 512 MiB
	PerOwner int           // jobs of one user that aren't final; 3
	Total    int           // of all; 50
	Keep     time.Duration // how long a final job can be looked at; a week
}

func (l ImportLimits) withDefaults() ImportLimits {
	if l.MaxBytes == 0 {
		l.MaxBytes = 512 << 20
	}
	if l.PerOwner == 0 {
		l.PerOwner = 3
	}
	if l.Total == 0 {
		l.Total = 50
	}
	if l.Keep == 0 {
		l.Keep = 7 * 24 * time.Hour
	}
	return l
}

const (
	// jobPoll is how often a server looks whether there is something to do.
	jobPoll = time.Second
	// jobTidy is how often it removes what is of no more use.
	jobTidy = time.Minute
	// jobAttempts is how often a job is begun: one that ends its process each
	// time must not end every process.
	jobAttempts = 5
	// jobRetries is how often a database that is away is tried again, at
	// doubling intervals from jobPoll on.
	jobRetries = 8
	// maxUnpacked is how many times larger than MaxBytes what is packed may be.
	maxUnpacked = 20
)

// Why a job that is worked on here is stopped.
var (
	errJobCancelled = errors.New("resourceserver: the import was cancelled")
	errJobLost      = errors.New("resourceserver: somebody else works on the import")
)

// Run works on imports over HTTP, one at a time, until ctx ends. What it works
// on then is undone, and queued for the others. A server without Run takes
// imports, and leaves them to others.
func (s *Server) Run(ctx context.Context) error {
	if s.jobs == nil {
		<-ctx.Done()
		return nil
	}
	poll, tidied := time.NewTicker(jobPoll), time.Time{}
	defer poll.Stop()
	for {
		for s.workOnNext(ctx) {
		}
		if time.Since(tidied) >= jobTidy {
			s.tidy(ctx)
			tidied = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-poll.C:
		}
	}
}

// workOnNext takes up a job, if there is one. Errors are those of a database
// that is away; whatever failed is tried again.
func (s *Server) workOnNext(ctx context.Context) bool {
	due, err := s.jobs.DueJobs(ctx)
	if err != nil {
		s.jobTrouble(ctx, "", err)
		return false
	}
	for _, j := range due {
		if ctx.Err() != nil {
			return false
		}
		switch taken, err := s.take(ctx, &j); {
		case err != nil:
			s.jobTrouble(ctx, j.ID, err)
		case taken:
			s.work(ctx, j)
			return true
		}
	}
	return false
}

func (s *Server) jobTrouble(ctx context.Context, id string, err error) {
	if ctx.Err() == nil && !errors.Is(err, ErrJobChanged) {
		s.log.LogAttrs(ctx, slog.LevelWarn, "imports can't be worked on just now", slog.String("id", id), slog.String("cause", err.Error()))
	}
}

// take claims a job that is due, or ends one that nobody can.
func (s *Server) take(ctx context.Context, j *Job) (bool, error) {
	if j.State == JobUploading { // its client or its server has gone
		return false, s.discard(ctx, j)
	}
	if j.State == JobRunning {
		if err := s.jobs.Recover(ctx, true); err != nil {
			return false, err
		}
	}
	if _, err := s.jobs.BeatJob(ctx, j.ID, JobProgress{Rows: j.Report.Done}); err != nil {
		return false, err
	}
	switch {
	case j.Cancel:
		s.end(j, JobCancelled, nil)
	case j.Attempts >= jobAttempts:
		s.end(j, JobFailed, &JobError{"gave_up", i18n.Kept(i18n.Textf("The import was begun %d times, and each time the server ended before it did.", j.Attempts))})
	default:
		j.State, j.Attempts = JobRunning, j.Attempts+1
		if j.Started.IsZero() {
			j.Started = stamp(s.now())
		}
	}
	if err := s.jobs.SwapJob(ctx, j); err != nil {
		return false, err
	}
	if j.State.Final() {
		s.ended(ctx, j)
		return false, nil
	}
	return true, nil
}

// end makes a job final.
func (s *Server) end(j *Job, state JobState, why *JobError) {
	j.State, j.Error, j.Finished = state, why, stamp(s.now())
}

// ended is told of a job that has become final here.
func (s *Server) ended(ctx context.Context, j *Job) {
	s.metrics.imports.WithLabelValues(string(j.State)).Inc()
	s.log.LogAttrs(ctx, slog.LevelInfo, "an import ended", slog.String("id", j.ID), slog.String("state", string(j.State)),
		slog.Int("rows", j.Report.Rows), slog.Int("stored", j.Report.Stored), slog.Int("attempts", j.Attempts))
	s.dropUpload(ctx, j)
}

// dropUpload removes what is of no more use. If that fails, tidy does it.
func (s *Server) dropUpload(ctx context.Context, j *Job) {
	if err := s.jobs.CutFile(ctx, j.ID, JobUpload, 0); err != nil {
		return
	}
	j.Kept = false
	_ = s.jobs.SwapJob(ctx, j)
}

// discard removes a job with its files.
func (s *Server) discard(ctx context.Context, j *Job) error {
	for _, f := range []JobFile{JobUpload, JobRejects} {
		if err := s.jobs.CutFile(ctx, j.ID, f, 0); err != nil {
			return err
		}
	}
	return s.jobs.DeleteJob(ctx, j)
}

// tidy removes old jobs, and uploads of final ones.
func (s *Server) tidy(ctx context.Context) {
	before := s.now().Add(-s.imports.Keep)
	for {
		const many = 100
		old, err := s.jobs.OldJobs(ctx, before, many)
		if err != nil {
			s.jobTrouble(ctx, "", err)
			return
		}
		for _, j := range old {
			if !j.Finished.Before(before) {
				s.dropUpload(ctx, &j)
			} else if err := s.discard(ctx, &j); err != nil {
				s.jobTrouble(ctx, j.ID, err)
				return
			}
		}
		if len(old) < many || ctx.Err() != nil {
			return
		}
	}
}

// jobRun is a job that is worked on here. It is a [Store] for its import,
// which learns of each load whether it was stored.
type jobRun struct {
	Store
	s       *Server
	stop    context.CancelCauseFunc
	done    chan struct{} // is closed when nothing more happens here
	rejects *partWriter
	rows    atomic.Int64
	read    atomic.Int64

	mu   sync.Mutex // guards what follows
	job  Job        // as it is stored
	next *Job       // as it is being stored, with rows
}

func (r *jobRun) progress() JobProgress {
	return JobProgress{Rows: int(r.rows.Load()), Read: r.read.Load()}
}

func (r *jobRun) current() Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.job
}

// work imports the file of a job that was claimed, and stores how it ended.
func (s *Server) work(ctx context.Context, j Job) {
	s.log.LogAttrs(ctx, slog.LevelInfo, "an import begins", slog.String("id", j.ID), slog.Int("attempts", j.Attempts))
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r := &jobRun{Store: s.store, s: s, stop: stop, done: make(chan struct{}), job: j}
	s.working.Store(j.ID, r)
	defer func() {
		s.working.Delete(j.ID)
		close(r.done)
	}()
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		r.beat(working)
	}()
	report, err := r.attempts(working)
	cause := context.Cause(working)
	stop(nil)
	<-beating
	// What is to be said of the job is said also when the server stops.
	saying, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	if err := r.finish(saying, cause, report, err); err != nil {
		s.jobTrouble(saying, j.ID, err) // whoever takes it up finds it running, and dead
	}
}

// beat gives signs of life until ctx ends, and notices when the job was
// changed by somebody else.
func (r *jobRun) beat(ctx context.Context) {
	tick, alive := time.NewTicker(jobPulse), time.Now()
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		version, err := r.s.jobs.BeatJob(ctx, r.current().ID, r.progress())
		if err != nil {
			// Whoever takes the job up must find nothing half done.
			if time.Since(alive) > loadLease {
				r.stop(errJobLost)
			}
			continue
		}
		alive = time.Now()
		r.mu.Lock()
		changed := r.next == nil && version != r.job.Version && (version == 0 || version > r.job.Version)
		r.mu.Unlock()
		if changed {
			r.settle(ctx)
		}
	}
}

// settle finds out what is stored, after an answer that was lost, or a sign
// that somebody has changed the job.
func (r *jobRun) settle(ctx context.Context) {
	is, err := r.s.jobs.Job(ctx, r.current().ID)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(err, ErrNotFound):
		r.stop(errJobLost)
	case err != nil, is.Version <= r.job.Version:
	case r.next != nil && is.Version == r.job.Version+1 && bytes.Equal(is.marshal(), r.next.marshal()):
		r.job = is
	case is.Cancel && !is.State.Final():
		r.job = is
		r.stop(errJobCancelled)
	default:
		r.stop(errJobLost)
	}
}

// attempts imports, again after the database was away.
func (r *jobRun) attempts(ctx context.Context) (report Report, err error) {
	wait := jobPoll
	for range jobRetries {
		if report, err = r.attempt(ctx); err == nil {
			return report, nil
		}
		r.settle(ctx)
		r.mu.Lock()
		r.next = nil
		r.mu.Unlock()
		if r.current().State.Final() || !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			return report, err
		}
		select {
		case <-ctx.Done():
			return report, err
		case <-time.After(wait):
		}
		wait *= 2
	}
	return report, err
}

// attempt imports what isn't stored yet. The report is of all.
func (r *jobRun) attempt(ctx context.Context) (Report, error) {
	j := r.current()
	r.rejects = &partWriter{ctx: ctx, store: r.s.jobs, id: j.ID, file: JobRejects, at: j.Rejects}
	if err := r.s.jobs.CutFile(ctx, j.ID, JobRejects, j.Rejects); err != nil {
		return j.Report, err
	}
	r.rows.Store(int64(j.Report.Done))
	r.read.Store(0)
	opts := ImportOptions{
		Owner: j.Owner, Own: !j.Admin, Now: r.s.now(),
		Format: j.Options.Format, Encoding: j.Options.Encoding, Delimiter: j.Options.Delimiter, SwapXY: j.Options.SwapXY,
		Catalogues: r.s.catalogues, OnDuplicate: j.Options.OnDuplicate, SkipBad: j.Options.SkipBad,
		Rejects: r.rejects, resumed: j.Rejects > 0,
		DryRun: j.Options.DryRun, Batch: j.Options.Batch, From: j.Options.From,
		MaxUnpacked: maxUnpacked * r.s.imports.MaxBytes,
		Progress:    func(rows int) { r.rows.Store(int64(rows)) },
		step:        func(report Report, last bool) (Job, error) { return r.step(j.Report.plus(report), last) },
	}
	if j.Report.Done > 0 {
		opts.From = j.Report.Done + 1
	}
	file := &partReader{ctx: ctx, store: r.s.jobs, id: j.ID, file: JobUpload, size: j.Size}
	report, err := Import(ctx, r, counting{file, &r.read}, opts)
	if again := r.rejects.flush(); err == nil {
		err = again
	}
	return j.Report.plus(report), err
}

// counting counts what is read.
type counting struct {
	io.Reader
	n *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// step says what the job has come to with the rows of a load.
func (r *jobRun) step(report Report, last bool) (Job, error) {
	if err := r.rejects.flush(); err != nil {
		return Job{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.job.Cancel {
		return Job{}, ErrJobChanged
	}
	next := r.job
	next.Report, next.Rejects = report, r.rejects.at
	if last {
		r.s.end(&next, JobDone, nil)
	}
	r.next = &next
	return next, nil
}

// Load knows afterwards whether the step was stored.
func (r *jobRun) Load(ctx context.Context, b Batch) (Loaded, error) {
	l, err := r.Store.Load(ctx, b)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && r.next != nil {
		r.job, r.next = *r.next, nil
		r.job.Version++
	}
	return l, err
}

// finish stores how the work here ended, unless the last step did, or somebody
// else has the job.
func (r *jobRun) finish(ctx context.Context, cause error, report Report, err error) error {
	j := r.current()
	switch {
	case j.State.Final():
		r.s.ended(ctx, &j)
		return nil
	case errors.Is(cause, errJobLost):
		return nil
	case errors.Is(cause, errJobCancelled):
		r.s.end(&j, JobCancelled, nil)
	case cause != nil: // the server stops
		j.State, j.Attempts = JobQueued, j.Attempts-1
		return r.s.jobs.SwapJob(ctx, &j)
	case err == nil: // a dry run
		r.s.end(&j, JobDone, nil)
	default:
		r.s.end(&j, JobFailed, r.s.whyFailed(ctx, &j, report, err))
	}
	j.Report, j.Rejects, j.Read = report, r.rejects.at, r.read.Load()
	err = r.s.jobs.SwapJob(ctx, &j)
	if errors.Is(err, ErrJobChanged) { // cancelled at the last moment, or taken
		is, again := r.s.jobs.Job(ctx, j.ID)
		if again != nil || !is.Cancel || is.State != JobRunning || is.Attempts != j.Attempts {
			return errors.Join(err, again)
		}
		r.s.end(&j, JobCancelled, nil)
		j.Version, j.Cancel = is.Version, true
		err = r.s.jobs.SwapJob(ctx, &j)
	}
	if err == nil {
		r.s.ended(ctx, &j)
	}
	return err
}

// whyFailed says why an import failed, as the command does.
func (s *Server) whyFailed(ctx context.Context, j *Job, report Report, err error) *JobError {
	var code string
	var because i18n.Text
	header, _ := errors.AsType[*headerError](err)
	switch {
	case header != nil:
		code, because = "bad_header", i18n.Textf("the file's first row doesn't name the columns it must: %s", header.reason)
	case errors.Is(err, ErrHeader):
		code, because = "bad_header", "the file's first row can't be read"
	case errors.Is(err, errUnpacks):
		code, because = "too_large", i18n.Textf("the file unpacks to more than %d bytes", maxUnpacked*s.imports.MaxBytes)
	case errors.Is(err, ErrEncoding):
		code, because = "bad_encoding", "the file can't be unpacked, or read as text"
	case errors.Is(err, ErrBadRows):
		code, because = "bad_rows", "the file has bad rows"
		if errors.Is(err, ErrNotOwner) {
			because = "the file has a row with the _id of somebody else's inmueble"
		}
	case errors.Is(err, ErrDuplicate):
		code, because = "duplicate", "the _id is taken"
		if bad, ok := errors.AsType[*BatchError](err); ok {
			because = i18n.Textf("the _id is taken: %q", shown(bad.ID))
		}
	case errors.Is(err, ErrUnavailable):
		code, because = "unavailable", "the database was not available for a long time"
	default:
		code, because = "internal", "something went wrong here"
	}
	if code == "unavailable" || code == "internal" {
		s.log.LogAttrs(ctx, slog.LevelError, "an import failed", slog.String("id", j.ID), slog.String("cause", err.Error()))
	}
	if j.Options.Batch > 0 && report.Done > 0 {
		return &JobError{code, i18n.Kept(i18n.Textf("Rows 1 to %d are stored, go on with from=%d: %s.", report.Done, report.Done+1, because))}
	}
	return &JobError{code, i18n.Kept(i18n.Textf("Nothing was stored: %s.", because))}
}

// plus is the report of an import that went on where another ended.
func (r Report) plus(more Report) Report {
	if more.Format == "" {
		more.Format, more.Delimiter, more.Packing = r.Format, r.Delimiter, r.Packing
	}
	if more.Encoding == "" {
		more.Encoding = r.Encoding
	}
	more.Rows += r.Rows
	more.Stored += r.Stored
	more.Changed += r.Changed
	more.Unchanged += r.Unchanged
	more.Existing += r.Existing
	more.Skipped += r.Skipped
	more.Rejected += r.Rejected
	more.MadeIDs += r.MadeIDs
	more.OtherDates += r.OtherDates
	more.Done = max(r.Done, more.Done)
	more.LookSwapped = more.LookSwapped || r.LookSwapped
	columns := slices.Clone(r.UnknownColumns)
	for _, name := range more.UnknownColumns {
		if len(columns) < maxReported && !slices.Contains(columns, name) {
			columns = append(columns, name)
		}
	}
	more.UnknownColumns = columns
	bad := slices.Concat(r.Bad, more.Bad)
	more.MoreBad = more.MoreBad || r.MoreBad || len(bad) > maxReported
	more.Bad = bad[:min(len(bad), maxReported)]
	return more
}
