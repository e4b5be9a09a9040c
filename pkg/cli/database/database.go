// Package database opens databases by URL, with the settings that each engine
// needs to keep what was acknowledged. Only the command line (and the tests)
// open databases; the rooms are handed open ones.
//
//	sqlite:PATH          one writer and a few readers on one file
//	sqlite::memory:      a private database that dies with the process
//	postgres://…         a pool of connections
//	mongodb://…          a client, majority writes
package database

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	_ "github.com/lib/pq" // the postgres driver
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/readconcern"
	"go.mongodb.org/mongo-driver/mongo/readpref"
	"go.mongodb.org/mongo-driver/mongo/writeconcern"
	_ "modernc.org/sqlite" // the sqlite driver
)

// ErrURL is returned for a database URL that can't be read or isn't of a
// kind that the caller takes.
var ErrURL = errors.New("not a database URL")

// Kind is the engine that a database URL names.
type Kind string

// The engines.
const (
	SQLite   Kind = "sqlite"
	Postgres Kind = "postgres"
	MongoDB  Kind = "mongodb"
)

// Durability says what a crash of the whole machine may cost a SQLite
// database. PostgreSQL and MongoDB always keep everything acknowledged.
type Durability string

const (
	// Full keeps every acknowledged commit.
	Full Durability = "FULL"
	// Normal may lose the last commits, never consistency, when the power
	// fails; a crash of the process alone loses nothing.
	Normal Durability = "NORMAL"
)

// KindOf tells the engine of a database URL. The error wraps [ErrURL] and
// never holds the URL, which may carry a password.
func KindOf(rawURL string) (Kind, error) {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	if !ok || rest == "" {
		return "", fmt.Errorf("%w: it must start with sqlite:, postgres:// or mongodb://", ErrURL)
	}
	switch scheme {
	case "sqlite":
		return SQLite, nil
	case "postgres", "postgresql":
		return Postgres, nil
	case "mongodb", "mongodb+srv":
		return MongoDB, nil
	}
	return "", fmt.Errorf("%w: it must start with sqlite:, postgres:// or mongodb://", ErrURL)
}

// HasPassword reports whether a database URL carries a password, in its user
// part or as a query parameter.
func HasPassword(rawURL string) bool {
	u, err := url.Parse(rawURL)
	if err != nil {
		return strings.Contains(rawURL, "@") // can't tell: treat it as a secret
	}
	if _, set := u.User.Password(); set {
		return true
	}
	return u.Query().Has("password") || u.Query().Has("sslpassword")
}

// SQL is an open SQL database. Write must be used for whatever writes, and
// for reads that must see it; Read may be used for the others. On PostgreSQL
// both are one pool.
type SQL struct {
	Kind        Kind
	Write, Read *sqlx.DB
}

// Close closes both pools.
func (s *SQL) Close() error {
	if s.Read == s.Write {
		return s.Write.Close()
	}
	return errors.Join(s.Read.Close(), s.Write.Close())
}

// OpenSQL opens a sqlite: or postgres:// URL and makes sure that it answers.
// The folder of a SQLite file is made when it is missing, mode 0700.
func OpenSQL(ctx context.Context, rawURL string, durability Durability) (*SQL, error) {
	kind, err := KindOf(rawURL)
	if err != nil {
		return nil, err
	}
	switch kind {
	case SQLite:
		return openSQLite(ctx, strings.TrimPrefix(rawURL, "sqlite:"), durability)
	case Postgres:
		return openPostgres(ctx, rawURL)
	default:
		return nil, fmt.Errorf("%w: a SQL database is wanted here, sqlite:PATH or postgres://…", ErrURL)
	}
}

func openSQLite(ctx context.Context, path string, durability Durability) (*SQL, error) {
	const busy = "_pragma=busy_timeout(5000)"
	write := "_txlock=immediate&" + busy + "&_pragma=foreign_keys(1)&_pragma=synchronous(" + string(durability) + ")"
	if path == ":memory:" {
		db, err := sqlx.ConnectContext(ctx, "sqlite", "file::memory:?"+write)
		if err != nil {
			return nil, fmt.Errorf("open SQLite in memory: %w", err)
		}
		db.SetMaxOpenConns(1) // a second connection would be a second database
		return &SQL{Kind: SQLite, Write: db, Read: db}, nil
	}
	path = strings.TrimPrefix(path, "//")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the SQLite file: %w", err)
	}
	// SQLite gives the file the process's umask; what it holds is nobody
	// else's business.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the SQLite file: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the SQLite file: %w", err)
	}
	file := "file:" + (&url.URL{Path: path}).EscapedPath()
	w, err := sqlx.ConnectContext(ctx, "sqlite", file+"?"+write+"&_pragma=journal_mode(wal)")
	if err != nil {
		return nil, fmt.Errorf("open SQLite: %w", err)
	}
	w.SetMaxOpenConns(1) // one writer: SQLite has no more, and waiting in Go beats SQLITE_BUSY
	r, err := sqlx.ConnectContext(ctx, "sqlite", file+"?mode=ro&_pragma=query_only(1)&"+busy)
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("open SQLite for reading: %w", err)
	}
	r.SetMaxOpenConns(4)
	r.SetMaxIdleConns(4)
	return &SQL{Kind: SQLite, Write: w, Read: r}, nil
}

// PostgresDSN is the URL with which OpenSQL connects for a postgres:// URL.
func PostgresDSN(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil || u.Query().Has("sslmode") || os.Getenv("PGSSLMODE") != "" {
		return rawURL
	}
	// lib/pq's default may change between releases: say it.
	q := u.Query()
	q.Set("sslmode", "require")
	u.RawQuery = q.Encode()
	return u.String()
}

func openPostgres(ctx context.Context, rawURL string) (*SQL, error) {
	if _, err := url.Parse(rawURL); err != nil {
		return nil, fmt.Errorf("%w: it can't be parsed", ErrURL)
	}
	db, err := sqlx.ConnectContext(ctx, "postgres", PostgresDSN(rawURL))
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return &SQL{Kind: Postgres, Write: db, Read: db}, nil
}

// OpenMongo opens a mongodb:// URL, with majority writes and reads from the
// primary, and makes sure that it answers. The database is the one that the
// URL names, else urbandata.
func OpenMongo(ctx context.Context, rawURL string) (*mongo.Database, error) {
	if kind, err := KindOf(rawURL); err != nil || kind != MongoDB {
		return nil, fmt.Errorf("%w: mongodb://… is wanted here", ErrURL)
	}
	opts := options.Client().ApplyURI(rawURL)
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("%w: MongoDB can't use it", ErrURL) // the driver's text may hold the URL
	}
	opts.SetWriteConcern(writeconcern.Majority()).
		SetReadConcern(readconcern.Local()).
		SetRetryWrites(true).
		SetServerSelectionTimeout(5 * time.Second).
		SetAppName("urbandata")
	client, err := mongo.Connect(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("connect to MongoDB: %w", err)
	}
	if err := client.Ping(ctx, readpref.Primary()); err != nil {
		_ = client.Disconnect(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("connect to MongoDB: %w", err)
	}
	name := "urbandata"
	if u, err := url.Parse(rawURL); err == nil && strings.Trim(u.Path, "/") != "" {
		name = strings.Trim(u.Path, "/")
	}
	return client.Database(name), nil
}
