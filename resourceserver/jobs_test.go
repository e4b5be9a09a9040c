package resourceserver

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
)

// importJob is a job as a client reads it.
type importJob struct {
	ID, State, Owner, Format, Encoding, Packing, Delimiter string

	Rows, Stored, Changed, Unchanged, Existing, Skipped, Rejected, Done, Attempts, Row int
	Size, Read                                                                         int64
	DryRun                                                                             bool `json:"dry_run"`
	Errors                                                                             []RowError
	Rejects                                                                            *string
	Error                                                                              *JobError
}

// works has the client's server work on imports until the test ends, or it is
// stopped.
func (c *client) works() (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	var running sync.WaitGroup
	running.Go(func() { must(c.t, c.server.Run(ctx)) })
	stop = func() { cancel(); running.Wait() }
	c.t.Cleanup(stop)
	return stop
}

// sent starts an import of a file.
func (c *client) sent(query, mediaType, file string) importJob {
	c.t.Helper()
	a := c.with("Content-Type", mediaType).do("POST", "/inmuebles/import"+query, file).want(202)
	j := decode[importJob](a)
	if a.Header().Get("Location") != "/inmuebles/imports/"+j.ID {
		c.t.Errorf("Location %q of %q", a.Header().Get("Location"), j.ID)
	}
	return j
}

// until polls a job until it is as wanted.
func (c *client) until(id string, ok func(importJob) bool) importJob {
	c.t.Helper()
	const patience = 90 * time.Second
	deadline := time.After(patience)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		j := decode[importJob](c.do("GET", "/inmuebles/imports/"+id, "").want(200))
		if ok(j) {
			return j
		}
		select {
		case <-again.C:
		case <-deadline:
			c.t.Fatalf("still not: %+v", j)
		}
	}
}

// ended waits for the end of a job.
func (c *client) ended(id string) importJob {
	c.t.Helper()
	return c.until(id, func(j importJob) bool { return JobState(j.State).Final() })
}

// TestImportJobs: each kind of file and option, with what comes of it.
func TestImportJobs(t *testing.T) {
	one := header + row("id_uda", "j1")
	mine := body("_id", `"j1"`, "title", `"new"`)
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			alice := newClient(t, store)
			bob := alice.as("bob", token.ScopeInmueblesRead, token.ScopeInmueblesWrite)
			alice.works()

			for _, tt := range []struct {
				name        string
				by          *client
				query, kind string
				file        string
				want        importJob // of the fields that aren't zero
				code        string
				says        string
			}{
				{"a row", alice, "", "text/csv", one, importJob{State: "done", Format: "CSV", Rows: 1, Stored: 1, Done: 1, Encoding: "UTF-8", Delimiter: ","}, "", ""},
				{"again", alice, "", "text/csv", one, importJob{State: "failed", Rows: 1}, "duplicate", "Nothing was stored: the _id is taken"},
				{"skipped", alice, "?on-duplicate=skip", "text/csv", one, importJob{State: "done", Rows: 1, Existing: 1}, "", ""},
				{"somebody else's", bob, "?on-duplicate=replace", "application/x-ndjson", mine, importJob{State: "failed", Rows: 1}, "bad_rows", "somebody else's"},
				{"left out", bob, "?on-duplicate=replace&on-error=skip", "application/x-ndjson", mine + "\n" + body("_id", `"j2"`), importJob{State: "done", Rows: 2, Stored: 1, Rejected: 1}, "", ""},
				{"an admin's", alice.admin(), "?on-duplicate=replace", "application/json", "[" + mine + "]", importJob{State: "done", Format: "JSON", Changed: 1}, "", ""},
				{"a dry run", alice, "?dry-run=true", "text/csv", header + row("id_uda", "j3"), importJob{State: "done", Rows: 1, Stored: 1, DryRun: true}, "", ""},
				{"packed", alice, "", "application/gzip", gzipped(t, header+row("id_uda", "j3")), importJob{State: "done", Packing: "gzip", Stored: 1}, "", ""},
				{"packed on the way", alice.with("Content-Encoding", "gzip"), "", "text/csv", gzipped(t, header+row("id_uda", "j4")), importJob{State: "done", Packing: "gzip", Stored: 1}, "", ""},
				{"broken", alice, "", "application/gzip", gzipped(t, one)[:40], importJob{State: "failed"}, "bad_encoding", "Nothing was stored"},
				{"in another charset", alice, "", "text/csv; charset=iso-8859-1", header + row("id_uda", "j5", "title", "\xc1tico"), importJob{State: "done", Encoding: "Windows-1252", Stored: 1}, "", ""},
				{"a bad row", alice, "", "text/csv", header + row("id_uda", "j6") + row("end_week", "x"), importJob{State: "failed", Rows: 2}, "bad_rows", "Nothing was stored: the file has bad rows."},
				{"no header", alice, "", "text/csv", "a,b\n", importJob{State: "failed"}, "bad_header", "lacks"},
				{
					"in batches", alice, "?batch=2", "text/csv", header + row("id_uda", "b1") + row("id_uda", "b2") + row("id_uda", "b3") + row("end_week", "x"),
					importJob{State: "failed", Rows: 4, Stored: 2, Done: 2},
					"bad_rows", "Rows 1 to 2 are stored, go on with from=3: the file has bad rows.",
				},
				{"from a row on", alice, "?from=3", "text/csv", header + row("id_uda", "b1") + row("id_uda", "b2") + row("id_uda", "b3"), importJob{State: "done", Rows: 1, Stored: 1, Done: 3, Row: 3}, "", ""},
			} {
				j := tt.by.ended(tt.by.sent(tt.query, tt.kind, tt.file).ID)
				says := ""
				if j.Error != nil {
					says = j.Error.Detail.Text().String()
				}
				switch w := tt.want; {
				case j.State != w.State, w.Format != "" && j.Format != w.Format, w.Encoding != "" && j.Encoding != w.Encoding, j.Packing != w.Packing,
					w.Rows != 0 && j.Rows != w.Rows, j.Stored != w.Stored, j.Changed != w.Changed, j.Existing != w.Existing, j.Rejected != w.Rejected,
					w.Done != 0 && j.Done != w.Done, j.DryRun != w.DryRun, w.Row != 0 && j.Row != w.Row, j.Attempts != 1, j.Size != int64(len(tt.file)), j.State == "done" && j.Read != j.Size:
					t.Errorf("%s: %+v %s", tt.name, j, says)
				}
				if es := decode[importJob](tt.by.with("Accept-Language", "es").do("GET", "/inmuebles/imports/"+j.ID, "").want(200)); j.Error != nil && es.Error.Detail == j.Error.Detail ||
					len(j.Errors) > 0 && es.Errors[0].Reason == j.Errors[0].Reason {
					t.Errorf("%s: in Spanish too %+v %+v", tt.name, es.Error, es.Errors)
				}
				if code := ""; j.Error != nil && j.Error.Code != tt.code || j.Error == nil && code != tt.code || !strings.Contains(says, tt.says) {
					t.Errorf("%s: error %+v, want %q", tt.name, j.Error, tt.code)
				}
				if len(j.Errors) != 0 != (tt.code == "bad_rows" || tt.code == "duplicate" || tt.want.Rejected > 0) {
					t.Errorf("%s: errors %+v", tt.name, j.Errors)
				}
			}
			for id, owner := range map[string]string{"j1": "alice", "j2": "bob", "j3": "alice", "b3": "alice"} {
				m, err := store.Get(t.Context(), id)
				must(t, err)
				if m.Owner != owner {
					t.Errorf("%s is %q's, want %q", id, m.Owner, owner)
				}
			}
			if _, err := store.Get(t.Context(), "j6"); err == nil {
				t.Error("a row of a file with a bad one was stored")
			}

			// Who may see what.
			if n := len(decode[[]importJob](bob.do("GET", "/inmuebles/imports", "").want(200))); n != 2 {
				t.Errorf("bob sees %d", n)
			}
			all := alice.admin().do("GET", "/inmuebles/imports?limit=10", "").want(200)
			page := decode[[]importJob](all)
			next := strings.TrimSuffix(strings.TrimPrefix(all.Header().Get("Link"), "<"), `>; rel="next"`)
			more := alice.admin().do("GET", next, "").want(200)
			if rest := decode[[]importJob](more); len(page) != 10 || len(rest) != 5 || rest[0].ID >= page[9].ID || more.Header().Get("Link") != "" {
				t.Errorf("pages of %d and %d, next %q", len(page), len(rest), next)
			}
			others := decode[[]importJob](bob.do("GET", "/inmuebles/imports?limit=1", "").want(200))[0]
			alice.do("GET", "/inmuebles/imports/"+others.ID, "").want(404)
			alice.do("DELETE", "/inmuebles/imports/"+others.ID, "").want(404)
			alice.do("GET", "/inmuebles/imports/"+others.ID+"/rejects", "").want(404)
			bob.do("DELETE", "/inmuebles/imports/"+others.ID, "").want(409)
			if n := alice.metric("urbandata_imports_total", "done"); n != 9 {
				t.Errorf("%v done", n)
			}

			// The refused rows, and conditional looks.
			a := bob.do("GET", *others.Rejects, "")
			if a.Code != 200 || a.Header().Get("Content-Type") != "text/csv; charset=utf-8; header=present" ||
				a.Body.String() != "line,column,reason,row\n1,_id,_id is that of somebody else's inmueble,\""+strings.ReplaceAll(mine, `"`, `""`)+"\"\n" {
				t.Errorf("%d %q", a.Code, a.Body)
			}
			tag := bob.do("GET", "/inmuebles/imports/"+others.ID, "").Header().Get("ETag")
			bob.with("If-None-Match", tag).do("GET", "/inmuebles/imports/"+others.ID, "").want(304)
		})
	}
}

// TestImportRefused: what never becomes a job.
func TestImportRefused(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	c.server.imports.MaxBytes = 3 << 20
	good := header + row()
	reader := c.as("eve", token.ScopeInmueblesRead)
	for name, tt := range map[string]struct {
		by          *client
		query, kind string
		file        string
		status      int
		code        string
	}{
		"no scope":       {reader, "", "text/csv", good, 403, "insufficient_scope"},
		"no type":        {c, "", "", good, 415, "unsupported_media_type"},
		"another type":   {c, "", "text/html", good, 415, "unsupported_media_type"},
		"a charset":      {c, "", "text/csv; charset=ebcdic", good, 415, "unsupported_media_type"},
		"a coding":       {c.with("Content-Encoding", "br"), "", "text/csv", good, 415, "unsupported_content_coding"},
		"nothing":        {c, "", "text/csv", "", 400, "malformed"},
		"too much":       {c, "", "text/csv", header + strings.Repeat(row(), 40_000), 413, "too_large"},
		"unknown option": {c, "?rejects=x", "text/csv", good, 422, "validation_failed"},
		"wrong option":   {c, "?on-duplicate=maybe", "text/csv", good, 422, "validation_failed"},
		"batch of 0":     {c, "?batch=0", "text/csv", good, 422, "validation_failed"},
	} {
		a := tt.by.with("Content-Type", tt.kind).do("POST", "/inmuebles/import"+tt.query, tt.file).want(tt.status)
		if p := decode[problem](a); p.Code != tt.code {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if jobs := decode[[]importJob](c.do("GET", "/inmuebles/imports", "").want(200)); len(jobs) != 0 {
		t.Errorf("%+v", jobs)
	}
	for _, path := range []string{"/inmuebles/imports/none", "/inmuebles/imports/none/rejects"} {
		c.do("GET", path, "").want(404)
	}
	c.do("GET", "/inmuebles/imports?limit=101", "").want(422)
}

// TestImportUnpacks: what is packed may not fill the disk.
func TestImportUnpacks(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	c.server.imports.MaxBytes = 64 << 10
	c.works()
	for name, file := range map[string]string{"gzip": gzipped(t, many(10_000)), "zstd": zstded(t, many(10_000))} {
		j := c.ended(c.sent("", "application/octet-stream", file).ID)
		if j.State != "failed" || j.Error.Code != "too_large" || j.Error.Detail != "Nothing was stored: the file unpacks to more than 1310720 bytes." || count(t, store) != 0 {
			t.Errorf("%s: %+v %+v", name, j, j.Error)
		}
	}
}

// TestImportLimits: so many of one user, so many in all; a cancelled one makes
// room, and so does a failed upload.
func TestImportLimits(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			c := newClient(t, store) // nobody works
			c.server.imports.PerOwner, c.server.imports.Total = 2, 3
			bob := c.as("bob", token.ScopeInmueblesWrite, token.ScopeInmueblesRead)
			file := header + row()
			one := c.sent("", "text/csv", file)
			c.sent("", "text/csv", file)
			send := func(c *client) answer {
				return c.with("Content-Type", "text/csv").do("POST", "/inmuebles/import", file)
			}
			for _, want := range []struct {
				by     *client
				status int
			}{{c, 429}, {bob, 202}, {bob, 503}} {
				a := send(want.by).want(want.status)
				if (want.status != 202) != (a.Header().Get("Retry-After") != "") {
					t.Errorf("Retry-After %q of %d", a.Header().Get("Retry-After"), want.status)
				}
			}
			if j := decode[importJob](c.do("DELETE", "/inmuebles/imports/"+one.ID, "").want(200)); j.State != "cancelled" {
				t.Errorf("%+v", j)
			}
			c.do("DELETE", "/inmuebles/imports/"+one.ID, "").want(200) // it is
			c.with("Content-Type", "text/csv").do("POST", "/inmuebles/import", "").want(400)
			send(c).want(202)
			stop := c.works()
			for _, j := range decode[[]importJob](c.do("GET", "/inmuebles/imports", "").want(200)) {
				if j.ID != one.ID {
					c.ended(j.ID)
				}
			}
			stop()
			if got, err := store.Get(t.Context(), "u1"); err != nil || got.Owner != "alice" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// TestImportOnce: the same request with the same key is one import.
func TestImportOnce(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			c := newClient(t, store).with("Idempotency-Key", "k1")
			file := header + row()
			one := c.sent("", "text/csv", file)
			if again := c.sent("", "text/csv", file); again.ID != one.ID {
				t.Errorf("%q, then %q", one.ID, again.ID)
			}
			c.works()
			c.ended(one.ID)
			if again := c.sent("", "text/csv", file); again.ID != one.ID || again.State != "done" {
				t.Errorf("%q, then %+v", one.ID, again)
			}
			for query, file := range map[string]string{"?from=2": file, "": file + "\n"} {
				c.with("Content-Type", "text/csv").do("POST", "/inmuebles/import"+query, file).want(422)
			}
			if other := c.as("bob", token.ScopeInmueblesWrite, token.ScopeInmueblesRead).sent("", "text/csv", file); other.ID == one.ID {
				t.Error("two users' keys are one")
			}
		})
	}
}

// many is a file of n rows.
func many(n int) string {
	var b strings.Builder
	b.WriteString(header)
	for i := range n {
		b.WriteString(row("id_uda", fmt.Sprintf("m%06d", i), "title", strings.Repeat("Piso ", 20)))
	}
	return b.String()
}
