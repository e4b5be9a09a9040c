package resourceserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/jmoiron/sqlx"
)

var _ JobStore = (*SQLite)(nil)

// Statements about jobs aren't prepared: a job is rare.

// sqliteUnfinished is the condition of a job that isn't final.
const sqliteUnfinished = `state IN ('uploading', 'queued', 'running')`

// InsertJob counts and enters in one transaction.
func (s *SQLite) InsertJob(ctx context.Context, j Job, most JobLimits) error {
	return s.begin(ctx, func(tx *sqlx.Tx) error {
		if j.Key != "" {
			old, err := scanJobs(tx.QueryxContext(ctx, `SELECT version, document FROM imports WHERE key = ?`, j.Key))
			if err != nil {
				return sqliteError(ctx, "look for a job", err)
			}
			if len(old) > 0 {
				return &JobKeyError{old[0]}
			}
		}
		var owners, all int
		err := tx.QueryRowxContext(ctx, `SELECT count(*) FILTER (WHERE owner = ?), count(*) FROM imports WHERE `+sqliteUnfinished, j.Owner).Scan(&owners, &all)
		switch {
		case err != nil:
			return sqliteError(ctx, "count the jobs", err)
		case owners >= most.PerOwner:
			return ErrOwnersJobs
		case all >= most.Total:
			return ErrAllJobs
		}
		if err := s.beat(ctx, tx, j.ID, JobProgress{}); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO imports (id, owner, key, state, version, document) VALUES (?, ?, ?, ?, 1, ?)`,
			j.ID, j.Owner, sql.NullString{String: j.Key, Valid: j.Key != ""}, j.State, string(j.marshal()))
		return sqliteError(ctx, "enter a job", err)
	})
}

// scanJobs reads rows of version and document, and closes them.
func scanJobs(rows *sqlx.Rows, err error) ([]Job, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // an error of reading is rows.Err's
	var jobs []Job
	for rows.Next() {
		var version int64
		var document []byte
		if err := rows.Scan(&version, &document); err != nil {
			return nil, err
		}
		j, err := parseJob(document, version)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, rows.Err()
}

// Job reads one job.
func (s *SQLite) Job(ctx context.Context, id string) (Job, error) {
	jobs, err := scanJobs(s.read.QueryxContext(ctx, `SELECT version, document FROM imports WHERE id = ?`, id))
	if err != nil {
		return Job{}, sqliteError(ctx, "read a job", err)
	}
	if len(jobs) == 0 {
		return Job{}, ErrNotFound
	}
	return jobs[0], nil
}

// Jobs reads a page.
func (s *SQLite) Jobs(ctx context.Context, owner, before string, most int) ([]Job, error) {
	where, args := `(?1 = '' OR id < ?1)`, []any{before, most}
	if owner != "" {
		where, args = where+` AND owner = ?3`, append(args, owner)
	}
	jobs, err := scanJobs(s.read.QueryxContext(ctx, `SELECT version, document FROM imports WHERE `+where+` ORDER BY id DESC LIMIT ?2`, args...))
	return jobs, sqliteError(ctx, "read jobs", err)
}

// SwapJob is one UPDATE.
func (s *SQLite) SwapJob(ctx context.Context, j *Job) error {
	if err := s.swapJob(ctx, s.write, j); err != nil {
		return err
	}
	j.Version++
	return nil
}

func (s *SQLite) swapJob(ctx context.Context, db sqlx.ExecerContext, j *Job) error {
	result, err := db.ExecContext(ctx, `UPDATE imports SET state = ?3, finished_at = ?4, document = ?5, version = version + 1 WHERE id = ?1 AND version = ?2`,
		j.ID, j.Version, j.State, milli(j.Finished), string(j.marshal()))
	return s.oneJob(ctx, result, err)
}

func (s *SQLite) oneJob(ctx context.Context, result sql.Result, err error) error {
	if err != nil {
		return sqliteError(ctx, "change a job", err)
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		return ErrJobChanged
	}
	return sqliteError(ctx, "change a job", err)
}

// step stores what a job has come to in the transaction of its rows.
func (s *SQLite) step(ctx context.Context, tx *sqlx.Tx, b *Batch, l Loaded) error {
	if b.Step == nil {
		return nil
	}
	j, err := b.Step(l)
	if err != nil {
		return err
	}
	return s.swapJob(ctx, tx, &j)
}

// DeleteJob removes a job and its sign of life.
func (s *SQLite) DeleteJob(ctx context.Context, j *Job) error {
	return s.begin(ctx, func(tx *sqlx.Tx) error {
		result, err := tx.ExecContext(ctx, `DELETE FROM imports WHERE id = ? AND version = ?`, j.ID, j.Version)
		if err := s.oneJob(ctx, result, err); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM import_beats WHERE id = ?`, j.ID)
		return sqliteError(ctx, "remove a job", err)
	})
}

// BeatJob waits while a load runs, which is a sign of life itself: nobody
// else can take anything up meanwhile.
func (s *SQLite) BeatJob(ctx context.Context, id string, p JobProgress) (version int64, err error) {
	if err := s.beat(ctx, s.write, id, p); err != nil {
		return 0, err
	}
	err = s.read.QueryRowxContext(ctx, `SELECT version FROM imports WHERE id = ?`, id).Scan(&version)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return version, sqliteError(ctx, "read a job", err)
}

// sqliteNow is the database's clock, in ms.
const sqliteNow = `CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)`

func (s *SQLite) beat(ctx context.Context, db sqlx.ExecerContext, id string, p JobProgress) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `INSERT INTO import_beats (id, alive, progress) VALUES (?, `+sqliteNow+`, ?)
		ON CONFLICT DO UPDATE SET alive = excluded.alive, progress = excluded.progress`, id, string(text))
	return sqliteError(ctx, "give a sign of life", err)
}

// Progress reads the last sign of life.
func (s *SQLite) Progress(ctx context.Context, id string) (p JobProgress, err error) {
	var text []byte
	err = s.read.QueryRowxContext(ctx, `SELECT progress FROM import_beats WHERE id = ?`, id).Scan(&text)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return JobProgress{}, nil
	case err != nil:
		return JobProgress{}, sqliteError(ctx, "read a sign of life", err)
	}
	return p, json.Unmarshal(text, &p)
}

// DueJobs looks at the signs of life too.
func (s *SQLite) DueJobs(ctx context.Context) ([]Job, error) {
	jobs, err := scanJobs(s.read.QueryxContext(ctx, `SELECT version, document FROM imports i WHERE state = 'queued'
		OR state IN ('uploading', 'running')
		AND NOT EXISTS (SELECT 1 FROM import_beats b WHERE b.id = i.id AND b.alive > `+sqliteNow+` - ?)
		ORDER BY id`, jobLease.Milliseconds()))
	return jobs, sqliteError(ctx, "look for jobs", err)
}

// OldJobs reads those that are to be tidied up.
func (s *SQLite) OldJobs(ctx context.Context, before time.Time, most int) ([]Job, error) {
	jobs, err := scanJobs(s.read.QueryxContext(ctx, `SELECT version, document FROM imports
		WHERE finished_at < ?1 OR finished_at IS NOT NULL AND document ->> '$.kept' ORDER BY id LIMIT ?2`, before.UnixMilli(), most))
	return jobs, sqliteError(ctx, "look for old jobs", err)
}

// Recover has nothing to do: SQLite undoes what wasn't committed.
func (s *SQLite) Recover(context.Context, bool) error { return nil }

// importsFolder is where the files of jobs are: beside the database, so that
// they are in its backup. It is made when there is a first one.
type importsFolder struct {
	mu   sync.Mutex // guards root
	root *os.Root
}

func (f *importsFolder) open(ctx context.Context, db *sqlx.DB) (*os.Root, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.root != nil {
		return f.root, nil
	}
	var seq int
	var name, file string
	if err := db.QueryRowxContext(ctx, `PRAGMA database_list`).Scan(&seq, &name, &file); err != nil {
		return nil, sqliteError(ctx, "find the SQLite file", err)
	}
	folder := strings.TrimSuffix(file, filepath.Ext(file)) + "-imports"
	if file == "" { // a database in memory
		made, err := os.MkdirTemp("", "urbandata-imports-")
		if err != nil {
			return nil, fileError("make a folder for", err)
		}
		folder = made
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fileError("make a folder for", err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fileError("open the folder of", err)
	}
	f.root = root
	return root, nil
}

func (f *importsFolder) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.root == nil {
		return nil
	}
	return f.root.Close()
}

func (s *SQLite) jobFile(ctx context.Context, id string, f JobFile, flag int) (*os.File, error) {
	root, err := s.folder.open(ctx, s.read)
	if err != nil {
		return nil, err
	}
	return root.OpenFile(id+"."+string(f), flag, 0o600)
}

// WritePart writes into a file and has it reach the disk.
func (s *SQLite) WritePart(ctx context.Context, id string, f JobFile, at int64, data []byte) (err error) {
	file, err := s.jobFile(ctx, id, f, os.O_CREATE|os.O_WRONLY)
	if err != nil {
		return fileError("write", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.WriteAt(data, at); err != nil {
		return fileError("write", err)
	}
	return fileError("write", file.Sync())
}

// ReadPart reads jobPart bytes, or what there is.
func (s *SQLite) ReadPart(ctx context.Context, id string, f JobFile, at int64) ([]byte, error) {
	file, err := s.jobFile(ctx, id, f, os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, fileError("read", err)
	}
	defer func() { _ = file.Close() }() // only read
	data := make([]byte, jobPart)
	n, err := file.ReadAt(data, at)
	if n > 0 {
		return data[:n], nil
	}
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	return nil, fileError("read", err)
}

// CutFile cuts or removes a file.
func (s *SQLite) CutFile(ctx context.Context, id string, f JobFile, size int64) error {
	root, err := s.folder.open(ctx, s.read)
	if err != nil {
		return err
	}
	if size == 0 {
		if err := root.Remove(id + "." + string(f)); !errors.Is(err, os.ErrNotExist) {
			return fileError("remove", err)
		}
		return nil
	}
	file, err := s.jobFile(ctx, id, f, os.O_WRONLY)
	if err != nil {
		return fileError("cut", err)
	}
	return fileError("cut", errors.Join(file.Truncate(size), file.Close()))
}

// fileError: a full disk may have room again. nil stays nil.
func fileError(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s a file of an import: %w", ErrUnavailable, doing, err)
}
