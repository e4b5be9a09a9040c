package resourceserver

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// gate is a store whose loads wait at a row until it is opened, or their
// context ends.
type gate struct {
	Store
	JobStore
	at      int // rows that a load takes before it waits; -1 is before it begins
	load    int // which load waits, from 1
	loads   atomic.Int32
	reached chan struct{}
	open    chan struct{}
	numb    atomic.Bool // gives no sign of life any more
}

func newGate(store Store, load, at int) *gate {
	return &gate{Store: store, JobStore: store.(JobStore), load: load, at: at, reached: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) wait(ctx context.Context) {
	close(g.reached)
	select {
	case <-g.open:
	case <-ctx.Done():
	}
}

func (g *gate) Load(ctx context.Context, b Batch) (Loaded, error) {
	if int(g.loads.Add(1)) != g.load {
		return g.Store.Load(ctx, b)
	}
	if g.at < 0 {
		g.wait(ctx)
	}
	rows, n := b.Rows, 0
	b.Rows = func(yield func(Row, error) bool) {
		for r, err := range rows {
			if n == g.at {
				g.wait(ctx)
			}
			if n++; !yield(r, err) {
				return
			}
		}
	}
	return g.Store.Load(ctx, b)
}

var errNumb = errors.New("numb")

func (g *gate) BeatJob(ctx context.Context, id string, p JobProgress) (int64, error) {
	if g.numb.Load() {
		return 0, errNumb
	}
	return g.JobStore.BeatJob(ctx, id, p)
}

func (g *gate) Recover(ctx context.Context, wait bool) error { return g.JobStore.Recover(ctx, wait) }

// lose makes the last sign of life of a job old.
func lose(t *testing.T, store Store, id string) {
	t.Helper()
	var err error
	switch s := store.(type) {
	case *SQLite:
		_, err = s.write.ExecContext(t.Context(), `UPDATE import_beats SET alive = 0 WHERE id = ?`, id)
	case *Mongo:
		_, err = s.imports.beats.UpdateByID(t.Context(), id, map[string]any{"$set": map[string]any{"alive": time.Unix(0, 0)}})
	}
	must(t, err)
}

func count(t *testing.T, store Store) int {
	t.Helper()
	n, err := store.Count(t.Context(), query.Node{}, 0)
	must(t, err)
	return n
}

// TestImportTakenOver: who was taken for dead, and isn't, stores nothing more,
// and who took over stores the rest, once.
func TestImportTakenOver(t *testing.T) {
	for _, e := range theEngines {
		rows := 5000 // more than a transaction of MongoDB takes
		if e.name == "SQLite" {
			rows = 2500
		}
		for query, tt := range map[string]struct{ load, rows int }{"": {1, rows}, "?batch=1000": {2, rows}, "?on-error=skip&batch=2000": {2, rows - 1}} {
			t.Run(e.name+query, func(t *testing.T) {
				t.Parallel()
				store, _ := e.open(t)
				zombie := newGate(store, tt.load, -1)
				one, two := newClient(t, zombie), newClient(t, store)
				two.issuer, two.token = one.issuer, one.token
				two.server.verifier = one.server.verifier
				stopOne := one.works()
				file := strings.Replace(many(rows), `,10,`, `,x,`, map[bool]int{true: 1}[strings.Contains(query, "skip")])
				j := one.sent(query, "text/csv", file)
				<-zombie.reached
				zombie.numb.Store(true)
				lose(t, store, j.ID)
				two.works()
				end := two.ended(j.ID)
				if end.State != "done" || end.Attempts != 2 || end.Rows != rows || end.Stored != tt.rows || end.Rejected != rows-tt.rows || end.Done != rows {
					t.Errorf("%+v", end)
				}
				close(zombie.open)
				stopOne()
				if got := two.ended(j.ID); got.State != "done" || got.Attempts != 2 || count(t, store) != tt.rows {
					t.Errorf("%+v with %d inmuebles", got, count(t, store))
				}
				rejects := two.do("GET", *end.Rejects, "").Body.String()
				if strings.Count(rejects, "\n") != 1+rows-tt.rows {
					t.Errorf("%q", rejects)
				}
			})
		}
	}
}

// TestImportCancelled: in the middle of a load, by who works on it and by
// another replica; and a stop of the server gives the job back.
func TestImportCancelled(t *testing.T) {
	for _, e := range theEngines {
		rows := 5500 // more than a transaction of MongoDB takes
		if e.name == "SQLite" {
			rows = 1500
		}
		for _, how := range []string{"here", "elsewhere", "stopped"} {
			t.Run(e.name+" "+how, func(t *testing.T) {
				t.Parallel()
				store, _ := e.open(t)
				at := rows - 100
				if e.name == "SQLite" && how == "elsewhere" {
					at = -1 // in a transaction of SQLite nobody else gets a word in
				}
				g := newGate(store, 1, at)
				one, two := newClient(t, g), newClient(t, store)
				two.issuer, two.token = one.issuer, one.token
				two.server.verifier = one.server.verifier
				stop := one.works()
				j := one.sent("", "text/csv", many(rows))
				<-g.reached
				if running := one.until(j.ID, func(j importJob) bool { return true }); running.State != "running" {
					t.Errorf("%+v", running)
				}
				switch how {
				case "here":
					if got := decode[importJob](one.do("DELETE", "/inmuebles/imports/"+j.ID, "").want(200)); got.State != "cancelled" {
						t.Errorf("%+v", got)
					}
				case "elsewhere":
					if got := decode[importJob](two.do("DELETE", "/inmuebles/imports/"+j.ID, "").want(202)); got.State != "cancelling" {
						t.Errorf("%+v", got)
					}
					if got := two.ended(j.ID); got.State != "cancelled" {
						t.Errorf("%+v", got)
					}
				case "stopped":
					stop()
					if got := decode[importJob](two.do("GET", "/inmuebles/imports/"+j.ID, "").want(200)); got.State != "queued" || got.Attempts != 0 || count(t, store) != 0 {
						t.Errorf("%+v with %d inmuebles", got, count(t, store))
					}
					two.works()
					if got := two.ended(j.ID); got.State != "done" || got.Stored != rows || got.Attempts != 1 {
						t.Errorf("%+v", got)
					}
					return
				}
				if n := count(t, store); n != 0 {
					t.Errorf("%d rows of a cancelled import are there", n)
				}
				// What was uploaded is of no more use.
				if _, err := store.(JobStore).ReadPart(t.Context(), j.ID, JobUpload, 0); err == nil {
					t.Error("the upload is still there")
				}
			})
		}
	}
}

// TestImportDead: what nobody can go on with comes to an end.
func TestImportDead(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			jobs := store.(JobStore)
			c := newClient(t, store)
			most := JobLimits{100, 100}
			put := func(j Job) {
				t.Helper()
				j.ID, j.Owner, j.Created, j.Kept = NewID(), "alice", dawn, true
				j.Version = 1
				must(t, jobs.WritePart(t.Context(), j.ID, JobUpload, 0, []byte("half of a fi")))
				must(t, jobs.InsertJob(t.Context(), j, most))
				lose(t, store, j.ID)
			}
			put(Job{State: JobUploading})
			put(Job{State: JobRunning, Cancel: true, Attempts: 1})
			put(Job{State: JobRunning, Attempts: jobAttempts})
			put(Job{State: JobDone, Finished: c.clock.Now().Add(-8 * 24 * time.Hour)})
			put(Job{State: JobDone, Finished: c.clock.Now()})
			// Those that ended carry that in what is stored only once changed.
			for _, j := range must1(jobs.Jobs(t.Context(), "", "", 10)) {
				must(t, jobs.SwapJob(t.Context(), &j))
			}
			c.works()
			states := ""
			soon(t, "all have ended", func() bool {
				states = ""
				for _, j := range decode[[]importJob](c.do("GET", "/inmuebles/imports", "").want(200)) {
					states = strings.TrimSpace(states + " " + j.State)
				}
				return states == "done failed cancelled"
			})
		})
	}
}

// soon looks again until something is so.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	const patience = 60 * time.Second
	deadline := time.After(patience)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("still not: %s", what)
		}
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestImportEvents: an event for each change, none for what is known, and an
// end when there is nothing more to say.
func TestImportEvents(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store).with("Accept", "text/event-stream")
	c.header.Del("Accept")
	j := c.sent("", "text/csv", header+row())
	c = c.with("Accept", "text/event-stream")
	path := "/inmuebles/imports/" + j.ID
	var a answer
	var reading sync.WaitGroup
	reading.Go(func() { a = c.do("GET", path, "") })
	soon(t, "the stream is open", func() bool { return c.server.streams.open() == 1 })
	c.works()
	reading.Wait()
	if a.Code != 200 || a.Header().Get("Content-Type") != "text/event-stream" || !a.Flushed {
		t.Errorf("%d %v", a.Code, a.Header())
	}
	var ids []string
	for line := range strings.Lines(a.Body.String()) {
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			ids = append(ids, strings.TrimSpace(id))
		}
	}
	text := a.Body.String()
	if len(ids) < 2 || !strings.Contains(text, `"state":"queued"`) || strings.LastIndex(text, `"state":"done"`) < strings.LastIndex(text, "event: import\n") {
		t.Errorf("%s", text)
	}
	last := ids[len(ids)-1]
	if again := c.with("Last-Event-ID", last).do("GET", path, ""); strings.Contains(again.Body.String(), "event:") {
		t.Errorf("sent again: %s", again.Body)
	}
	if again := c.with("Last-Event-ID", ids[0]).do("GET", path, ""); strings.Count(again.Body.String(), "event:") != 1 {
		t.Errorf("not sent: %s", again.Body)
	}
	if tag := c.with("Accept", "application/json").do("GET", path, ""); tag.Code != 200 {
		t.Errorf("%d", tag.Code)
	}
	c.do("GET", "/inmuebles/imports/none", "").want(404)
	if n := c.server.streams.open(); n != 0 {
		t.Errorf("%d streams are open", n)
	}
}

// TestImportEventsEnd: with the token, with the server, with the reader; and
// there are only so many.
func TestImportEventsEnd(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	path := "/inmuebles/imports/" + c.sent("", "text/csv", header+row()).ID // nobody works on it
	listen := func(c *client, n int) (wait func()) {
		var reading sync.WaitGroup
		before := c.server.streams.open()
		for range n {
			reading.Go(func() { c.with("Accept", "text/event-stream").do("GET", path, "").noted() })
		}
		soon(t, "the streams are open", func() bool { return c.server.streams.open() == before+n })
		return reading.Wait
	}
	wait := listen(c, maxStreamsOwner)
	a := c.with("Accept", "text/event-stream").do("GET", path, "").want(429)
	if a.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	c.clock.advance(100 * 365 * 24 * time.Hour) // the tokens are of now
	wait()
	c.clock.advance(-100 * 365 * 24 * time.Hour)

	r, w := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil), httptest.NewRecorder()
	leaving, leave := context.WithCancel(t.Context())
	r = r.WithContext(leaving)
	r.Header.Set("Authorization", "Bearer "+c.token)
	r.Header.Set("Accept", "text/event-stream")
	var reading sync.WaitGroup
	reading.Go(func() { c.server.ServeHTTP(w, r) })
	leave()
	reading.Wait()

	wait = listen(c, 1)
	c.server.Health.Drain()
	wait()
	if n := c.server.streams.open(); n != 0 {
		t.Errorf("%d streams are open", n)
	}
}

func (a answer) noted() {
	if a.Code != 200 {
		a.t.Errorf("%d", a.Code)
	}
}

// TestImportStreamsBound: of all users together.
func TestImportStreamsBound(t *testing.T) {
	var s streams
	for i := range maxStreams {
		must(t, s.enter(string(rune('a'+i)), 1, maxStreams))
	}
	if err := s.enter("z", 1, maxStreams); err == nil {
		t.Error("one too many")
	}
	s.leave("a")
	must(t, s.enter("a", 1, maxStreams))
}
