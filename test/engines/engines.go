// Package engines gives tests real databases: PostgreSQL, MongoDB and SQLite.
// Nothing here is a mock, and every test gets a database of its own, empty,
// which is dropped when the test ends, so tests run in parallel and in any
// order.
//
//	db := engines.Postgres(t)
//	applied, err := migrations.Up(t.Context(), db.Write.DB, migrations.AuthnPostgres)
//
// The servers are named by two variables of the environment. `make test` sets
// them; for a single package:
//
//	go run ./test/engines/with -- go test ./keys/...
//
// A test whose server is missing fails and says so. It is never skipped: a
// suite that is green without its databases proves nothing.
package engines

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
	"go.mongodb.org/mongo-driver/mongo"

	"github.com/urbandata/urbandata/pkg/cli/database"
)

// ChromiumEnv names the browser's program, for tests of pages.
const ChromiumEnv = "URBANDATA_TEST_CHROMIUM"

// Chromium returns the browser's program.
func Chromium(t testing.TB) string {
	t.Helper()
	program := os.Getenv(ChromiumEnv)
	if program == "" {
		t.Fatalf("this test needs Chromium: run `make test`, or name the program in %s", ChromiumEnv)
	}
	return program
}

// MongodEnv names the program of MongoDB, for tests that need a set of their
// own to break.
const MongodEnv = "URBANDATA_TEST_MONGOD"

// Mongod returns MongoDB's program.
func Mongod(t testing.TB) string {
	t.Helper()
	program := os.Getenv(MongodEnv)
	if program == "" {
		t.Fatalf("this test needs MongoDB's program, mongod: run `make test`, or name it in %s", MongodEnv)
	}
	return program
}

// The variables that name the servers. Each holds a URL whose user may make
// and drop databases; the MongoDB server is a member of a replica set, since
// transactions need one.
const (
	PostgresEnv = "URBANDATA_TEST_POSTGRES"
	MongoEnv    = "URBANDATA_TEST_MONGODB"
)

// patience bounds every statement sent here, on a machine that may be busy
// with the rest of the suite.
const patience = time.Minute

// Postgres opens a new, empty PostgreSQL database. It is closed and dropped
// when the test ends.
func Postgres(t testing.TB) *database.SQL {
	t.Helper()
	return openSQL(t, PostgresURL(t))
}

// PostgresURL makes a new, empty PostgreSQL database and returns its URL. The
// database is dropped when the test ends, with whatever is still connected.
func PostgresURL(t testing.TB) string {
	t.Helper()
	u, drop, err := NewPostgres()
	return kept(t, u, drop, err)
}

// NewPostgres is [PostgresURL] for programs that are no tests: who asks drops
// the database.
func NewPostgres() (databaseURL string, drop func() error, err error) {
	admin, err := server(PostgresEnv, "PostgreSQL")
	if err != nil {
		return "", nil, err
	}
	name := freshName()
	// template0, because nobody can be connected to it: CREATE DATABASE fails
	// while its template is in use.
	if err := onPostgres(admin, "CREATE DATABASE "+pq.QuoteIdentifier(name)+" TEMPLATE template0"); err != nil {
		return "", nil, fmt.Errorf("make a PostgreSQL database: %w", err)
	}
	return withDatabase(admin, name), func() error {
		if err := onPostgres(admin, "DROP DATABASE "+pq.QuoteIdentifier(name)+" WITH (FORCE)"); err != nil {
			return fmt.Errorf("drop the PostgreSQL database: %w", err)
		}
		return nil
	}, nil
}

// kept has a test drop its database.
func kept(t testing.TB, databaseURL string, drop func() error, err error) string {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if err := drop(); err != nil {
			t.Error(err)
		}
	})
	return databaseURL
}

// Mongo opens a new, empty MongoDB database, with the same options as in
// production. It is dropped, and its client disconnected, when the test ends.
func Mongo(t testing.TB) *mongo.Database {
	t.Helper()
	return openMongo(t, MongoURL(t))
}

// MongoURL returns the URL of a new, empty MongoDB database. The database is
// dropped when the test ends.
func MongoURL(t testing.TB) string {
	t.Helper()
	u, drop, err := NewMongo()
	return kept(t, u, drop, err)
}

// NewMongo is [MongoURL] for programs that are no tests: who asks drops the
// database.
func NewMongo() (databaseURL string, drop func() error, err error) {
	admin, err := server(MongoEnv, "MongoDB")
	if err != nil {
		return "", nil, err
	}
	u := withDatabase(admin, freshName())
	return u, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		db, err := database.OpenMongo(ctx, u)
		if err != nil {
			return fmt.Errorf("drop the MongoDB database: %w", err)
		}
		return errors.Join(db.Drop(ctx), db.Client().Disconnect(ctx))
	}, nil
}

// SQLite opens a new, empty SQLite database in a file that goes away with the
// test.
func SQLite(t testing.TB) *database.SQL {
	t.Helper()
	return openSQL(t, SQLiteURL(t))
}

// SQLiteURL returns the URL of a SQLite file that doesn't exist yet, in a
// folder that goes away with the test.
func SQLiteURL(t testing.TB) string {
	t.Helper()
	return "sqlite:" + filepath.Join(t.TempDir(), "test.db")
}

func openSQL(t testing.TB, rawURL string) *database.SQL {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db, err := database.OpenSQL(ctx, rawURL, database.Full)
	if err != nil {
		t.Fatalf("open the test's database: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close the test's database: %v", err)
		}
	})
	return db
}

func openMongo(t testing.TB, rawURL string) *mongo.Database {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db, err := database.OpenMongo(ctx, rawURL)
	if err != nil {
		t.Fatalf("open the test's database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := db.Client().Disconnect(ctx); err != nil {
			t.Errorf("disconnect from MongoDB: %v", err)
		}
	})
	return db
}

// server returns the URL that the variable holds, or says what to do about it.
// The URL may carry a password, so no message shows it.
func server(env, engine string) (*url.URL, error) {
	raw := os.Getenv(env)
	if raw == "" {
		return nil, fmt.Errorf("this needs %s: run `make test`, or `go run ./test/engines/with -- go test PACKAGE`, "+
			"or set %s to the URL of a server where it may make databases", engine, env)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%s doesn't hold a URL with a host", env)
	}
	return u, nil
}

// withDatabase returns the server's URL with name as its database. A MongoDB
// user is looked up in the database of the URL unless authSource says another,
// so that is kept.
func withDatabase(server *url.URL, name string) string {
	u := *server
	if strings.HasPrefix(u.Scheme, "mongodb") && u.User != nil {
		q := u.Query()
		if !q.Has("authSource") {
			source := strings.Trim(u.Path, "/")
			if source == "" {
				source = "admin"
			}
			q.Set("authSource", source)
			u.RawQuery = q.Encode()
		}
	}
	u.Path, u.RawPath = "/"+name, ""
	return u.String()
}

// onPostgres runs one statement as the server's administrator, on a
// connection of its own.
func onPostgres(admin *url.URL, statement string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db, err := database.OpenSQL(ctx, admin.String(), database.Full)
	if err != nil {
		return err
	}
	defer func() {
		if closing := db.Close(); err == nil {
			err = closing
		}
	}()
	_, err = db.Write.ExecContext(ctx, statement)
	return err
}

// freshName returns a database name that no other test has, on this machine
// or on another that shares the server.
func freshName() string {
	return fmt.Sprintf("urbandata_test_%s", strings.ToLower(rand.Text()))
}
