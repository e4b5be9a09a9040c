package engines_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"

	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/test/engines"
)

func TestEachTestHasItsOwnDatabase(t *testing.T) {
	for _, engine := range []struct {
		name string
		open func(testing.TB) *database.SQL
	}{
		{"postgres", engines.Postgres},
		{"sqlite", engines.SQLite},
	} {
		t.Run(engine.name, func(t *testing.T) {
			t.Parallel()
			a, b := engine.open(t), engine.open(t)
			if _, err := a.Write.ExecContext(t.Context(), "CREATE TABLE mine (n INTEGER)"); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Write.ExecContext(t.Context(), "CREATE TABLE mine (n INTEGER)"); err != nil {
				t.Errorf("the second database isn't empty: %v", err)
			}
		})
	}
	t.Run("mongodb", func(t *testing.T) {
		t.Parallel()
		a, b := engines.Mongo(t), engines.Mongo(t)
		if _, err := a.Collection("mine").InsertOne(t.Context(), bson.M{"n": 1}); err != nil {
			t.Fatal(err)
		}
		n, err := b.Collection("mine").CountDocuments(t.Context(), bson.M{})
		if err != nil || n != 0 {
			t.Errorf("the second database holds %d documents, %v", n, err)
		}
	})
}

func TestMongoHasTransactions(t *testing.T) {
	db := engines.Mongo(t)
	session, err := db.Client().StartSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.EndSession(context.Background())
	undo := errors.New("undo")
	_, err = session.WithTransaction(t.Context(), func(ctx mongo.SessionContext) (any, error) {
		if _, err := db.Collection("c").InsertOne(ctx, bson.M{"n": 1}); err != nil {
			return nil, err
		}
		return nil, undo
	})
	if !errors.Is(err, undo) {
		t.Fatalf("got %v, want %v", err, undo)
	}
	if n, err := db.Collection("c").CountDocuments(t.Context(), bson.M{}); err != nil || n != 0 {
		t.Errorf("after a transaction that was undone: %d documents, %v", n, err)
	}
}

// A server may be kept and shared by many runs, so each must clean up, even
// after a test that left connections open.
func TestDatabasesAreDropped(t *testing.T) {
	var postgres, mongodb string
	var left *database.SQL
	t.Run("use", func(t *testing.T) {
		postgres, mongodb = engines.PostgresURL(t), engines.MongoURL(t)
		var err error
		if left, err = database.OpenSQL(t.Context(), postgres, database.Full); err != nil {
			t.Fatal(err)
		}
		m, err := database.OpenMongo(t.Context(), mongodb)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Collection("c").InsertOne(t.Context(), bson.M{}); err != nil {
			t.Fatal(err)
		}
		if err := m.Client().Disconnect(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if err := left.Close(); err != nil {
		t.Error(err)
	}
	db, err := database.OpenSQL(t.Context(), postgres, database.Full)
	if pq.As(err, pqerror.InvalidCatalogName) == nil {
		t.Errorf("opening the dropped PostgreSQL database: %v", err)
	}
	if err == nil {
		_ = db.Close()
	}
	m := engines.Mongo(t)
	names, err := m.Client().ListDatabaseNames(t.Context(), bson.M{"name": nameOf(t, mongodb)})
	if err != nil || len(names) != 0 {
		t.Errorf("left in MongoDB: %v, %v", names, err)
	}
}

func TestMissingServerFailsAndSaysHow(t *testing.T) {
	for _, test := range []struct {
		env   string
		value string
		open  func(testing.TB)
		want  string
	}{
		{engines.PostgresEnv, "", func(t testing.TB) { engines.Postgres(t) }, "make test"},
		{engines.MongoEnv, "", func(t testing.TB) { engines.Mongo(t) }, "make test"},
		{engines.PostgresEnv, "postgres://u:hunter2@[", func(t testing.TB) { engines.Postgres(t) }, "doesn't hold a URL"},
		{engines.MongoEnv, "hunter2", func(t testing.TB) { engines.Mongo(t) }, "doesn't hold a URL"},
	} {
		t.Run(test.env+"="+test.value, func(t *testing.T) {
			t.Setenv(test.env, test.value)
			r := &recorder{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				test.open(r)
			}()
			<-done
			switch {
			case r.fatal == "":
				t.Error("it went on")
			case !strings.Contains(r.fatal, test.want) || !strings.Contains(r.fatal, test.env):
				t.Errorf("it says %q, want %q and %q in it", r.fatal, test.want, test.env)
			case strings.Contains(r.fatal, "hunter2"):
				t.Errorf("it shows the password: %q", r.fatal)
			}
		})
	}
}

// recorder keeps what a test would have died of, and ends its goroutine.
type recorder struct {
	testing.TB
	fatal string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func nameOf(t *testing.T, rawURL string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(u.Path, "/")
}
