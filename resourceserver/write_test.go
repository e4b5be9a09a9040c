package resourceserver

import (
	"bytes"
	"errors"
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/urbandata/urbandata/pkg/token"
)

func TestParseTags(t *testing.T) {
	for _, tt := range []struct {
		header string
		want   string // any, or the tags with a space between
		err    error
	}{
		{"", "", nil},
		{" ", "", nil},
		{"*", "any", nil},
		{`"a"`, `"a"`, nil},
		{`"a", "b"`, `"a" "b"`, nil},
		{`"a" ,W/"b",`, `"a" W/"b"`, nil},
		{`"a",,"b"`, `"a" "b"`, nil},
		{`""`, `""`, nil},
		{`"a,b"`, `"a,b"`, nil},
		{`a`, "", errTags},
		{`"a`, "", errTags},
		{`"a""b"`, "", errTags},
		{`"a" "b"`, "", errTags},
		{`w/"a"`, "", errTags},
		{`"a b"`, "", errTags},
		{`*, "a"`, "", errTags},
	} {
		set, err := parseTags(tt.header)
		wantErr(t, err, tt.err)
		got := strings.Join(set.tags, " ")
		if set.any {
			got = "any"
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.header, got, tt.want)
		}
	}
}

// FuzzParseTags: any header is read or refused, as the API's document says,
// and what is read is in it.
func FuzzParseTags(f *testing.F) {
	f.Add(`"a", W/"b"`)
	f.Add("*")
	f.Add(` "a",, "b" ,`)
	f.Add(`"a"b`)
	documented := regexp.MustCompile(patternTags)
	f.Fuzz(func(t *testing.T, header string) {
		if !utf8.ValidString(header) {
			return // expressions are about text
		}
		set, err := parseTags(header)
		if says := documented.MatchString(header); says != (err == nil) {
			t.Errorf("%q: %v, and the document says %v", header, err, says)
		}
		if err != nil {
			wantErr(t, err, errTags)
			return
		}
		for _, tag := range set.tags {
			if !strings.Contains(header, tag) || !strings.HasSuffix(tag, `"`) {
				t.Errorf("%q has no %q", header, tag)
			}
		}
	})
}

func TestParsePrefer(t *testing.T) {
	for header, want := range map[string]prefer{
		"":                             {},
		"return=minimal":               {ret: "minimal"},
		`Return = "representation"; x`: {ret: "representation"},
		"respond-async, return=minimal, return=representation":     {ret: "minimal"},
		"resolution=merge-duplicates,return=representation":        {ret: "representation", resolution: "merge-duplicates"},
		"resolution=ignore-duplicates, resolution=other, return=x": {resolution: "ignore-duplicates"},
		"count=exact, count=planned":                               {count: "exact"},
		"count=planned":                                            {count: "estimated"},
	} {
		if got := parsePrefer(header); got != want {
			t.Errorf("%q: %+v, want %+v", header, got, want)
		}
	}
}

// match is a condition that a test writes as headers.
func match(t testing.TB, ifMatch, ifNoneMatch string) Match {
	t.Helper()
	m, _, err := ParseMatch(ifMatch, ifNoneMatch)
	must(t, err)
	return m
}

// conformMatch: the conditions of Replace, Update and Delete.
func conformMatch(t *testing.T, s Store, spoil spoiler) {
	insert(t, s, "a")
	m := sample("a")
	tag := m.ETag()
	change := func(id string) Inmueble {
		m := sample(id)
		m.Title, m.UpdatedAt = "changed", noon
		return m
	}
	retitle := func(m Inmueble) (Inmueble, error) { return change(m.ID), nil }
	alice := Owner("alice")
	for _, no := range []Match{match(t, `"other"`, ""), match(t, "W/"+tag, ""), match(t, "", "*"), match(t, "", tag), match(t, "", "W/"+tag), match(t, tag, tag)} {
		_, err := s.Replace(t.Context(), change("a"), alice.If(no))
		wantErr(t, err, ErrChanged)
		_, err = s.Update(t.Context(), "a", alice.If(no), retitle)
		wantErr(t, err, ErrChanged)
		wantErr(t, s.Delete(t.Context(), "a", alice.If(no)), ErrChanged)
		// Who may not change it isn't told how it is.
		_, err = s.Replace(t.Context(), change("a"), Owner("bob").If(no))
		wantErr(t, err, ErrNotOwner)
		wantErr(t, s.Delete(t.Context(), "none", alice.If(no)), ErrNotFound)
		_, err = s.Replace(t.Context(), change("none"), alice.If(no))
		wantErr(t, err, ErrNotFound)
	}
	got, err := s.Get(t.Context(), "a")
	must(t, err)
	wantSame(t, got, m)

	for i, yes := range []Match{match(t, `"other", `+tag, ""), match(t, "*", ""), match(t, tag, `"other"`), match(t, "", `"other"`)} {
		id := fmt.Sprint("yes", i)
		n := sample(id)
		must(t, s.Insert(t.Context(), n))
		yes := match(t, strings.ReplaceAll(strings.Join(yes.only.tags, ","), tag, n.ETag()), strings.Join(yes.never.tags, ","))
		got, err := s.Replace(t.Context(), change(id), alice.If(yes))
		must(t, err)
		want := change(id)
		wantSame(t, got, want)
		now := match(t, got.ETag(), "")
		got, err = s.Update(t.Context(), id, alice.If(now), func(m Inmueble) (Inmueble, error) {
			m.EndWeek, m.UpdatedAt, m.Owner = 50, noon, "mallory"
			return m, nil
		})
		must(t, err)
		want.EndWeek = 50
		wantSame(t, got, want)
		wantErr(t, s.Delete(t.Context(), id, alice.If(now)), ErrChanged)
		must(t, s.Delete(t.Context(), id, alice.If(match(t, got.ETag(), ""))))
	}

	// An unreadable document has no tag that anybody can have seen.
	spoil(t, "bad", "alice", notFinite)
	_, err = s.Replace(t.Context(), change("bad"), alice.If(match(t, tag, "")))
	wantErr(t, err, ErrChanged)
	_, err = s.Update(t.Context(), "bad", alice, retitle)
	wantErr(t, err, ErrUnreadable)
	_, err = s.Replace(t.Context(), change("bad"), alice.If(match(t, "", `"x"`)))
	must(t, err)
	got, err = s.Get(t.Context(), "bad")
	must(t, err)
	if got.Owner != "alice" || got.Title != "changed" {
		t.Errorf("mended: %s", asJSON(got))
	}
}

// conformUpdate: Update's own rules.
func conformUpdate(t *testing.T, s Store, _ spoiler) {
	insert(t, s, "a")
	boom := errors.New("boom")
	_, err := s.Update(t.Context(), "a", Admin, func(Inmueble) (Inmueble, error) { return Inmueble{}, boom })
	wantErr(t, err, boom)
	_, err = s.Update(t.Context(), "b", Admin, func(m Inmueble) (Inmueble, error) { return m, nil })
	wantErr(t, err, ErrNotFound)
	for _, by := range []By{Owner("bob"), Owner(""), {}} {
		_, err = s.Update(t.Context(), "a", by, func(m Inmueble) (Inmueble, error) { return m, nil })
		wantErr(t, err, ErrNotOwner)
	}
	got, err := s.Update(t.Context(), "a", Owner("alice"), func(m Inmueble) (Inmueble, error) {
		m.UpdatedAt = noon // and nothing else
		return m, nil
	})
	must(t, err)
	wantSame(t, got, sample("a"))
}

// conformRaceUpdate: no increment is lost, and of those that want one tag one
// wins.
func conformRaceUpdate(t *testing.T, s Store, _ spoiler) {
	insert(t, s, "a")
	race(t, func(int) error {
		_, err := s.Update(t.Context(), "a", Owner("alice"), func(m Inmueble) (Inmueble, error) {
			m.EndWeek++
			return m, nil
		})
		return err
	})
	m, err := s.Get(t.Context(), "a")
	must(t, err)
	if want := sample("a").EndWeek + racers; m.EndWeek != want {
		t.Errorf("after %d increments end_week is %d, want %d", racers, m.EndWeek, want)
	}
	for round := range 3 {
		m, err := s.Get(t.Context(), "a")
		must(t, err)
		seen := Owner("alice").If(match(t, m.ETag(), ""))
		counts := race(t, func(i int) error {
			n := m
			n.Title = fmt.Sprint(round, i)
			_, err := s.Replace(t.Context(), n, seen)
			return err
		}, ErrChanged)
		if counts[nil] != 1 {
			t.Errorf("%d of %d replaces of one tag succeeded", counts[nil], racers)
		}
	}
	m, err = s.Get(t.Context(), "a")
	must(t, err)
	seen := Owner("alice").If(match(t, m.ETag(), ""))
	if counts := race(t, func(int) error { return s.Delete(t.Context(), "a", seen) }, ErrChanged, ErrNotFound); counts[nil] != 1 {
		t.Errorf("%d deletes of one tag succeeded", counts[nil])
	}
}

// conformLoad: what becomes of rows whose _id exists.
func conformLoad(t *testing.T, s Store, spoil spoiler) {
	row := func(id, title string, given ...string) Row {
		m := sample(id)
		m.Title, m.EndWeek, m.Owner, m.UpdatedAt = title, 40, "loader", noon
		r := Row{m, allGiven}
		if given != nil {
			r.given = 0
			for _, name := range given {
				r.given.mark(fieldIndex[name])
			}
		}
		return r
	}
	load := func(how OnDuplicate, by By, rows ...Row) (Loaded, []Outcome, error) {
		var told []Outcome
		l, err := s.Load(t.Context(), Batch{
			OnDuplicate: how, By: by, Replayable: true,
			Stored: func(_ Inmueble, what Outcome) { told = append(told, what) },
			Rows: func(yield func(Row, error) bool) {
				told = nil
				for _, r := range rows {
					if !yield(r, nil) {
						return
					}
				}
			},
		})
		if err == nil && l.Rows() != len(rows) {
			t.Errorf("%d rows counted of %d: %v", l.Rows(), len(rows), l)
		}
		return l, told, err
	}
	want := func(id, title string, week int32, owner string) {
		t.Helper()
		m, err := s.Get(t.Context(), id)
		must(t, err)
		if m.Title != title || m.EndWeek != week || m.Owner != owner {
			t.Errorf("%s: %s, want title %q, end_week %d, owner %q", id, asJSON(m), title, week, owner)
		}
	}
	insert(t, s, "a", "b")

	_, _, err := load(FailDuplicate, Admin, row("new", "x"), row("b", "x"))
	bad, ok := errors.AsType[*BatchError](err)
	if !ok || bad.Ordinal != 1 || !errors.Is(err, ErrDuplicate) {
		t.Errorf("a duplicate: %v", err)
	}
	l, told, err := load(SkipDuplicate, By{}, row("a", "x"), row("c", "c"), row("c", "again"))
	must(t, err)
	if l != (Loaded{Inserted: 1, Skipped: 2}) || fmt.Sprint(told) != fmt.Sprint([]Outcome{Skipped, Inserted, Skipped}) {
		t.Errorf("skip: %v %v", l, told)
	}
	want("a", "Ático 🏠", 7, "alice")
	want("c", "c", 40, "loader")

	l, told, err = load(ReplaceDuplicate, Owner("alice"), row("a", "x"), row("a", "x"), row("d", "d"), row("a", "y"))
	must(t, err)
	if l != (Loaded{Inserted: 1, Changed: 2, Unchanged: 1}) || fmt.Sprint(told) != fmt.Sprint([]Outcome{Changed, Unchanged, Inserted, Changed}) {
		t.Errorf("replace: %v %v", l, told)
	}
	want("a", "y", 40, "alice")
	l, _, err = load(ReplaceDuplicate, Owner("alice"), row("a", "y"))
	if must(t, err); l != (Loaded{Unchanged: 1}) {
		t.Errorf("the same once more: %v", l)
	}

	l, _, err = load(MergeDuplicate, Owner("alice"), row("b", "merged", "title"), row("e", "e"))
	if must(t, err); l != (Loaded{Inserted: 1, Changed: 1}) {
		t.Errorf("merge: %v", l)
	}
	want("b", "merged", 7, "alice")

	// Each of these stores nothing, not even the good row before it.
	for name, tt := range map[string]struct {
		how OnDuplicate
		by  By
		row Row
		err error
	}{
		"somebody else's":       {ReplaceDuplicate, Owner("bob"), row("a", "z"), ErrNotOwner},
		"somebody else's, part": {MergeDuplicate, Owner("bob"), row("a", "z", "title"), ErrNotOwner},
		"nobody's asker":        {MergeDuplicate, Owner(""), row("a", "z", "title"), ErrNotOwner},
		"new, and in part":      {MergeDuplicate, Admin, row("f", "z", "title"), ErrInvalid},
		"whole, in part":        {ReplaceDuplicate, Admin, row("a", "z", "title"), ErrInvalid},
		"new, in part, checked": {FailDuplicate, Admin, row("f", "z", "title"), ErrInvalid},
		"unreadable":            {MergeDuplicate, Admin, row("bad", "z", "title"), ErrUnreadable},
	} {
		if name == "unreadable" {
			spoil(t, "bad", "alice", tooLong)
		}
		_, _, err := load(tt.how, tt.by, row("good", "good"), tt.row)
		wantErr(t, err, tt.err)
		if bad, ok := errors.AsType[*BatchError](err); !ok || bad.Ordinal != 1 || bad.ID != tt.row.ID {
			t.Errorf("%s: %v", name, err)
		}
		_, err = s.Get(t.Context(), "good")
		wantErr(t, err, ErrNotFound)
	}
	if _, _, err := load(ReplaceDuplicate, Owner("alice"), row("bad", "mended")); err != nil {
		t.Errorf("mend: %v", err)
	}
	want("bad", "mended", 40, "alice")
}

// conformOnce: a load under a key happens once, and its answer is kept for a
// time.
func conformOnce(t *testing.T, s Store, _ spoiler) {
	once := func(key, fingerprint, id string, now time.Time) error {
		_, err := s.Load(t.Context(), Batch{
			Rows: func(yield func(Row, error) bool) { yield(Row{sample(id), allGiven}, nil) },
			Once: &Once{Key: key, Print: fingerprint, Now: now, Keep: time.Hour, Answer: func() []byte { return []byte("answer to " + id) }},
		})
		return err
	}
	now := time.Now() // MongoDB removes what is past by its own clock
	must(t, once("k", "p", "a", now))
	err := once("k", "p", "b", now.Add(59*time.Minute))
	if repeat, ok := errors.AsType[*RepeatError](err); !ok || string(repeat.Answer) != "answer to a" {
		t.Errorf("a second time: %v", err)
	}
	wantErr(t, once("k", "q", "b", now), ErrOtherRequest)
	wantErr(t, once("l", "p", "a", now), ErrDuplicate) // failed: the key stays free
	must(t, once("l", "p", "c", now))
	must(t, once("k", "q", "d", now.Add(time.Hour)))
	ids, _ := walk(t, s, 10)
	wantIDs(t, ids, "a", "c", "d")

	for round := range 3 {
		key := fmt.Sprint("race", round)
		counts := race(t, func(i int) error {
			err := once(key, "p", fmt.Sprint(key, i), now)
			if _, repeated := errors.AsType[*RepeatError](err); repeated {
				return ErrInProgress
			}
			return err
		}, ErrInProgress)
		if counts[nil] != 1 {
			t.Errorf("%d loads under one key happened", counts[nil])
		}
	}
	if ids, _ := walk(t, s, 10); len(ids) != 6 {
		t.Errorf("stored %q", ids)
	}
}

// TestETags: the tag of a document is that of its content, whoever wrote it.
func TestETags(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			c := newClient(t, store)
			made := c.do("POST", "/inmuebles", body()).want(201)
			tag, one := made.Header().Get("ETag"), made.Header().Get("Location")
			if len(tag) != 24 || tag[0] != '"' {
				t.Fatalf("ETag %q", tag)
			}
			got := c.do("GET", one, "").want(200)
			if got.Header().Get("ETag") != tag {
				t.Errorf("GET's ETag %q, POST's %q", got.Header().Get("ETag"), tag)
			}
			for header, status := range map[string]int{tag: 304, `W/` + tag: 304, "*": 304, `"x", ` + tag: 304, `"x"`: 200, "broken": 200} {
				a := c.with("If-None-Match", header).do("GET", one, "")
				if a.Code != status || a.Header().Get("ETag") != tag || status == 304 && (a.Body.Len() > 0 || a.Header().Get("Content-Type") != "") {
					t.Errorf("If-None-Match %s: %d %q %s", header, a.Code, a.Header(), a.Body)
				}
			}
			// Another program changes it: the tag that was seen holds no more.
			m, err := store.Get(t.Context(), strings.TrimPrefix(one, "/inmuebles/"))
			must(t, err)
			m.Title = "by another program"
			_, err = store.Replace(t.Context(), m, Admin)
			must(t, err)
			id := `"` + m.ID + `"`
			c.with("If-None-Match", tag).do("GET", one, "").want(200)
			for _, a := range []answer{
				c.with("If-Match", tag).do("PUT", one, body("_id", id)), c.with("If-Match", tag).do("PATCH", one, `{"title":"x"}`),
				c.with("If-Match", tag).do("DELETE", one, ""), c.with("If-None-Match", "*").do("PUT", one, body("_id", id)),
			} {
				if p := decode[problem](a.want(412)); p.Code != "precondition_failed" {
					t.Errorf("%+v", p)
				}
			}
			c.as("bob", token.ScopeInmueblesWrite).with("If-Match", tag).do("DELETE", one, "").want(403)
			if p := decode[problem](c.with("If-Match", "x").do("DELETE", one, "").want(422)); p.Errors[0].Header != "If-Match" {
				t.Errorf("%+v", p)
			}
			put := c.with("If-Match", m.ETag()).with("Prefer", "return=minimal").do("PUT", one, body("_id", id))
			if put.Code != 204 || put.Body.Len() > 0 || put.Header().Get("Preference-Applied") != "return=minimal" {
				t.Errorf("%d %q %s", put.Code, put.Header(), put.Body)
			}
			patched := c.with("If-Match", put.Header().Get("ETag")).do("PATCH", one, `{"title":"y"}`).want(200)
			c.with("If-Match", patched.Header().Get("ETag")).do("DELETE", one, "").want(204)
			c.with("If-Match", "*").do("PUT", one, body("_id", id)).want(404)
		})
	}
}

func TestRequireIfMatch(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	c.server.requireIfMatch = true
	insert(t, store, "a")
	for _, a := range []answer{
		c.do("PUT", "/inmuebles/a", body("_id", `"a"`)), c.do("PATCH", "/inmuebles/a", `{}`), c.do("DELETE", "/inmuebles/a", ""),
	} {
		if p := decode[problem](a.want(428)); p.Code != "precondition_required" {
			t.Errorf("%+v", p)
		}
	}
	tag := c.do("GET", "/inmuebles/a", "").want(200).Header().Get("ETag")
	c.with("If-Match", tag).do("DELETE", "/inmuebles/a", "").want(204)
}

// TestPatch: JSON Merge Patch, judged as a whole document.
func TestPatch(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			c := newClient(t, store)
			insert(t, store, "a")
			for _, tt := range []struct{ patch, want string }{
				{`{}`, asJSON(sample("a"))},
				{`{"_id":"a"}`, asJSON(sample("a"))},
				{`{"end_week":7}`, asJSON(sample("a"))}, // nothing changes, updated_at neither
				{`{"title":null}`, `"title":""`},
				{`{"construction_type":null,"date_diff":null,"other_id":17}`, `"construction_type":null,"date_diff":0`},
				{`{"other_id":17.0}`, `"other_id":"17"`},
				{`{"is_active":false,"x_coord":-0.0}`, `"x_coord":0,`},
			} {
				got := c.do("PATCH", "/inmuebles/a", tt.patch).want(200)
				if !strings.Contains(got.Body.String(), tt.want) {
					t.Errorf("%s: %s, want %s in it", tt.patch, got.Body, tt.want)
				}
				if again := c.do("GET", "/inmuebles/a", ""); again.Body.String() != got.Body.String() {
					t.Errorf("%s: GET %s\nwant %s", tt.patch, again.Body, got.Body)
				}
			}
			c.with("Content-Type", "application/json").do("PATCH", "/inmuebles/a", `{"title":"as JSON"}`).want(200)
			for patch, pointer := range map[string]string{
				`{"title":5}`: "/title", `{"end_week":null}`: "/end_week", `{"owner":"bob"}`: "/owner", `{"created_at":null}`: "/created_at",
				`{"_id":"b"}`: "/_id", `{"_id":""}`: "/_id", `{"surface":80}`: "/surface", `{"x_coord":181}`: "/x_coord", `{"title":"\u0000"}`: "/title", `[]`: "", `null`: "",
			} {
				p := decode[problem](c.do("PATCH", "/inmuebles/a", patch).want(422))
				if len(p.Errors) == 0 || p.Errors[0].Pointer == nil || *p.Errors[0].Pointer != pointer {
					t.Errorf("%s: %+v", patch, p)
				}
			}
			c.do("PATCH", "/inmuebles/b", `{}`).want(404)
			c.do("PATCH", "/inmuebles/%00", `{}`).want(404)
			c.as("bob", token.ScopeInmueblesWrite).do("PATCH", "/inmuebles/a", `{}`).want(403)
		})
	}
}

// TestPatchProperty: a patch does what RFC 7396 §2 says, on the JSON.
func TestPatchProperty(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	insert(t, store, "a")
	rapid.Check(t, func(r *rapid.T) {
		from := arbitrary().Draw(r, "patch")
		from.ID = "a"
		if from.Validate() != nil {
			r.Skip("not valid")
		}
		want := decode[map[string]any](c.do("GET", "/inmuebles/a", ""))
		var parts []string
		for i := range fields[1:] {
			f := &fields[1+i]
			if rapid.Bool().Draw(r, f.name+" is in it") {
				parts = append(parts, string(f.appendJSON(nil, &from)))
			}
		}
		patch := "{" + strings.Join(parts, ",") + "}"
		got := decode[map[string]any](c.do("PATCH", "/inmuebles/a", patch))
		for name, v := range decode[map[string]any](answer{&httptest.ResponseRecorder{Body: bytes.NewBufferString(patch)}, t}) {
			want[name] = v
		}
		want["updated_at"] = got["updated_at"]
		if fmt.Sprint(got) != fmt.Sprint(want) {
			r.Fatalf("%s made %v, want %v", patch, got, want)
		}
	})
}

// TestBulk: an array or lines, all or nothing.
func TestBulk(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			c := newClient(t, store)
			lines := c.with("Content-Type", "application/x-ndjson")
			list := decode[[]map[string]any](c.do("POST", "/inmuebles", "["+body()+","+body("title", `"b"`)+"]").want(201))
			if len(list) != 2 || list[1]["title"] != "b" || list[0]["owner"] != "alice" || list[0]["_id"] == list[1]["_id"] {
				t.Errorf("%v", list)
			}
			if again := decode[[]map[string]any](lines.do("POST", "/inmuebles", body()+"\r\n\n"+body("title", `"b"`)).want(201)); len(again) != 2 {
				t.Errorf("%v", again)
			}
			minimal := c.with("Prefer", "return=minimal").do("POST", "/inmuebles", "["+strings.TrimSuffix(strings.Repeat(body()+",", maxBulk), ",")+"]").want(201)
			if minimal.Body.Len() > 0 || minimal.Header().Get("Preference-Applied") != "return=minimal" || minimal.Header().Get("Location") != "" {
				t.Errorf("%q %s", minimal.Header(), minimal.Body)
			}
			one := c.with("Prefer", "return=minimal").do("POST", "/inmuebles", body()).want(201)
			if one.Body.Len() > 0 || one.Header().Get("Location") == "" || one.Header().Get("ETag") == "" {
				t.Errorf("%q %s", one.Header(), one.Body)
			}
			ids, _ := walk(t, store, 1000)
			if len(ids) != maxBulk+5 {
				t.Errorf("%d stored", len(ids))
			}
			p := decode[problem](lines.do("POST", "/inmuebles", body()+"\n"+body("end_week", "")).want(422))
			if len(p.Errors) != 1 || *p.Errors[0].Pointer != "/1/end_week" {
				t.Errorf("%+v", p)
			}
			lines.do("POST", "/inmuebles", body()+"\n{").want(400)
			lines.do("POST", "/inmuebles", body()+body()).want(400)
			lines.do("POST", "/inmuebles", "\n\n").want(422)
			if ids, _ := walk(t, store, 1000); len(ids) != maxBulk+5 {
				t.Errorf("a refused body stored something: %d", len(ids))
			}
		})
	}
}

// TestUpsert: Prefer: resolution.
func TestUpsert(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			c := newClient(t, store)
			insert(t, store, "a")
			merge := c.with("Prefer", "resolution=merge-duplicates")
			a := merge.do("POST", "/inmuebles", `[{"_id":"a","title":"merged","boundary_id":null},`+body("_id", `"b"`)+`,`+body()+`]`).want(201)
			list := decode[[]map[string]any](a)
			if list[0]["title"] != "merged" || list[0]["boundary_id"] != nil || list[0]["end_week"] != 7.0 || list[1]["_id"] != "b" ||
				a.Header().Get("Preference-Applied") != "resolution=merge-duplicates" {
				t.Errorf("%v", list)
			}
			one := merge.do("POST", "/inmuebles", `{"_id":"a","title":"again"}`).want(200)
			if one.Header().Get("Location") != "/inmuebles/a" || one.Header().Get("ETag") != c.do("GET", "/inmuebles/a", "").Header().Get("ETag") {
				t.Errorf("%q", one.Header())
			}
			ignored := c.with("Prefer", "resolution=ignore-duplicates").do("POST", "/inmuebles", `{"_id":"a","title":"never"}`).want(200)
			if m := decode[map[string]any](ignored); m["title"] != "again" {
				t.Errorf("%v", m)
			}
			bob := *merge
			bob.token = c.issuer.Token("bob", token.ScopeInmueblesWrite)
			bob.do("POST", "/inmuebles", `[`+body("_id", `"z"`)+`,{"_id":"a","title":"bob's"}]`).want(403)
			p := decode[problem](merge.do("POST", "/inmuebles", `[{"_id":"a"},{"_id":"new","title":"x"}]`).want(422))
			if len(p.Errors) != 12 || !strings.HasPrefix(*p.Errors[0].Pointer, "/1/") {
				t.Errorf("%+v", p)
			}
			for _, id := range []string{`".."`, `""`, `5`, `null`} {
				merge.do("POST", "/inmuebles", body("_id", id)).want(422)
			}
			ids, _ := walk(t, store, 10)
			if len(ids) != 3 {
				t.Errorf("stored %q", ids)
			}
		})
	}
}

// TestIdempotency: a lost answer is got again, and nothing is made twice.
func TestIdempotency(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			c := newClient(t, store)
			c.clock.advance(time.Until(dawn) * -1) // MongoDB removes what is past by its own clock
			keyed := c.with("Idempotency-Key", "7b1e")
			first := keyed.do("POST", "/inmuebles", body()).want(201)
			again := keyed.do("POST", "/inmuebles", body()).want(201)
			if again.Body.String() != first.Body.String() || again.Header().Get("Location") != first.Header().Get("Location") ||
				again.Header().Get("ETag") != first.Header().Get("ETag") {
				t.Errorf("again %q %s\nfirst %q %s", again.Header(), again.Body, first.Header(), first.Body)
			}
			if short := keyed.with("Prefer", "return=minimal").do("POST", "/inmuebles", body()).want(201); short.Body.Len() > 0 {
				t.Errorf("%s", short.Body)
			}
			p := decode[problem](keyed.do("POST", "/inmuebles", body("title", `"other"`)).want(422))
			if len(p.Errors) != 1 || p.Errors[0].Header != "Idempotency-Key" {
				t.Errorf("%+v", p)
			}
			bob := *keyed
			bob.token = c.issuer.Token("bob", token.ScopeInmueblesWrite)
			bob.do("POST", "/inmuebles", body("title", `"bob's"`)).want(201) // his keys are his own
			keyed.do("POST", "/inmuebles", body("end_week", "")).want(422)
			c.with("Idempotency-Key", strings.Repeat("x", 256)).do("POST", "/inmuebles", body()).want(422)

			// What failed didn't use the key up.
			other := c.with("Idempotency-Key", "second")
			other.do("POST", "/inmuebles", "["+body()+",{}]").want(422)
			other.do("POST", "/inmuebles", "["+body()+"]").want(201)

			// Many at once: one does it, the others are told to wait or get its answer.
			racing := c.with("Idempotency-Key", "race")
			var wg sync.WaitGroup
			var mu sync.Mutex
			bodies := map[string]int{}
			for range racers {
				wg.Go(func() {
					a := racing.do("POST", "/inmuebles", body())
					mu.Lock()
					defer mu.Unlock()
					if a.Code == 201 {
						bodies[a.Body.String()]++
					} else if a.Code != 409 {
						t.Errorf("status %d: %s", a.Code, a.Body)
					}
				})
			}
			wg.Wait()
			if len(bodies) != 1 {
				t.Errorf("%d different answers to one key", len(bodies))
			}
			ids, _ := walk(t, store, 10)
			if len(ids) != 4 {
				t.Errorf("%d stored, want 4", len(ids))
			}
			c.server.inFlight.Store(hash("alice", "busy"), true)
			if a := c.with("Idempotency-Key", "busy").do("POST", "/inmuebles", body()).want(409); a.Header().Get("Retry-After") == "" {
				t.Error("409 without Retry-After")
			}
			c.clock.advance(keepAnswers)
			if late := keyed.do("POST", "/inmuebles", body("title", `"other"`)).want(201); late.Header().Get("Location") == first.Header().Get("Location") {
				t.Error("the key was kept for longer than said")
			}
		})
	}
}
