package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	dawn = time.Date(2026, 3, 1, 6, 30, 0, 123e6, time.UTC)
	noon = dawn.Add(6 * time.Hour)
)

// sample is a valid inmueble of alice's, made at dawn, with every field set.
func sample(id string) Inmueble {
	three, nine := int32(3), int32(9)
	return Inmueble{
		ID: id, OtherID: "A1", BuildStatus: 1, IsActive: true, StartMonth: 2, ConstructionType: &three, DateDiff: 4,
		Description: `Piso «céntrico» $5 "nuevo"`, DateIn: "2021-03-01", PropertyType: 6, EndWeek: 7, TypologyType: 8,
		XCoord: -3.7038, YCoord: 40.4168, BoundaryID: &nine, Title: "Ático 🏠", ListingType: 10, Date: "2021-03-02",
		Owner: "alice", CreatedAt: dawn, UpdatedAt: dawn,
	}
}

// asJSON is how two inmuebles are compared: by what the API answers.
func asJSON(m Inmueble) string { return string(m.AppendJSON(nil)) }

func wantSame(t testing.TB, got, want Inmueble) {
	t.Helper()
	if asJSON(got) != asJSON(want) {
		t.Errorf("got  %s\nwant %s", asJSON(got), asJSON(want))
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func insert(t testing.TB, s Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		must(t, s.Insert(t.Context(), sample(id)))
	}
}

// walk reads the whole list in pages and returns the ids and what was left
// out.
func walk(t testing.TB, s Store, limit int) (ids, unreadable []string) {
	t.Helper()
	for after := ""; ; {
		page, err := list(t.Context(), s, after, limit)
		must(t, err)
		if n := len(page.Items) + len(page.Unreadable); n > limit || n == 0 && page.Next != "" {
			t.Fatalf("a page of %d after %q, limit %d, next %q", n, after, limit, page.Next)
		}
		for _, m := range page.Items {
			ids = append(ids, m.ID)
		}
		for _, u := range page.Unreadable {
			wantErr(t, u.Err, ErrInvalid)
			unreadable = append(unreadable, u.ID)
		}
		if page.Next == "" {
			return ids, unreadable
		}
		after = page.Next
	}
}

func wantIDs(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("ids %q, want %q", got, want)
	}
}

// TestStore is the conformance suite of [Store].
func TestStore(t *testing.T) {
	suite := []struct {
		name string
		test func(t *testing.T, s Store, spoil spoiler)
	}{
		{"what went in comes out", conformRoundTrip},
		{"any valid inmueble comes out as it went in", conformProperty},
		{"insert", conformInsert},
		{"replace", conformReplace},
		{"replace that changes nothing", conformReplaceSame},
		{"ownership", conformOwnership},
		{"delete", conformDelete},
		{"pages", conformPages},
		{"a walk while others write", conformWalk},
		{"large documents", conformLarge},
		{"unreadable documents", conformUnreadable},
		{"import", conformImport},
		{"import is all or nothing", conformImportFails},
		{"conditions", conformMatch},
		{"update", conformUpdate},
		{"concurrent updates", conformRaceUpdate},
		{"load", conformLoad},
		{"load once", conformOnce},
		{"large loads", conformLargeLoad},
		{"concurrent inserts", conformRaceInsert},
		{"concurrent replaces", conformRaceReplace},
		{"concurrent deletes", conformRaceDelete},
		{"import against inserts", conformRaceImport},
		{"ended contexts", conformContext},
	}
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			for _, c := range suite {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					s, spoil := e.open(t)
					must(t, s.Check(t.Context()))
					c.test(t, s, spoil)
				})
			}
		})
	}
}

func conformRoundTrip(t *testing.T, s Store, _ spoiler) {
	full := sample("full")
	bare := sample("bare")
	bare.ConstructionType, bare.DateDiff, bare.Description, bare.BoundaryID, bare.Title = nil, 0, "", nil, ""
	bare.Owner, bare.CreatedAt, bare.UpdatedAt = "", time.Time{}, time.Time{}
	zeros := sample("zeros")
	zero := int32(0)
	zeros.ConstructionType, zeros.BoundaryID, zeros.XCoord, zeros.YCoord = &zero, &zero, 0, 0
	for _, m := range []Inmueble{full, bare, zeros} {
		must(t, s.Insert(t.Context(), m))
		got, err := s.Get(t.Context(), m.ID)
		must(t, err)
		wantSame(t, got, m)
	}
	page, err := list(t.Context(), s, "", 10)
	must(t, err)
	for i, m := range []Inmueble{bare, full, zeros} {
		wantSame(t, page.Items[i], m)
	}
}

func conformProperty(t *testing.T, s Store, _ spoiler) {
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		m := arbitrary().Draw(r, "inmueble")
		if n++; m.ID != "" {
			m.ID = fmt.Sprintf("%d %.100s", n, m.ID) // new, and short enough for 128
		}
		if m.Validate() != nil {
			r.Skip("not valid")
		}
		if err := s.Insert(t.Context(), m); err != nil {
			r.Fatal(err)
		}
		got, err := s.Get(t.Context(), m.ID)
		if err != nil {
			r.Fatal(err)
		}
		if asJSON(got) != asJSON(m) {
			r.Fatalf("got %s, want %s", asJSON(got), asJSON(m))
		}
		if again, err := s.Replace(t.Context(), m, Admin); err != nil || asJSON(again) != asJSON(m) {
			r.Fatalf("replaced by itself: %s, %v, want %s", asJSON(again), err, asJSON(m))
		}
	})
}

// arbitrary generates inmuebles of which most are valid.
func arbitrary() *rapid.Generator[Inmueble] {
	return rapid.Custom(func(r *rapid.T) Inmueble {
		var m Inmueble
		for i := range fields {
			f := &fields[i]
			switch p := f.at(&m).(type) {
			case *string:
				*p = strings.ReplaceAll(rapid.StringN(0, 40, -1).Draw(r, f.name), "\x00", "$")
			case *int32:
				*p = rapid.Int32().Draw(r, f.name)
			case **int32:
				*p = rapid.Ptr(rapid.Int32(), true).Draw(r, f.name)
			case *bool:
				*p = rapid.Bool().Draw(r, f.name)
			case *float64:
				f.setFloat(&m, rapid.Float64Range(-float64(f.bound), float64(f.bound)).Draw(r, f.name))
			}
		}
		m.Owner = rapid.StringMatching(`[a-z0-9-]{0,36}`).Draw(r, "owner")
		m.CreatedAt = time.UnixMilli(rapid.Int64Range(minMilli+1, maxMilli).Draw(r, "created")).UTC()
		m.UpdatedAt = m.CreatedAt
		return m
	})
}

func conformInsert(t *testing.T, s Store, _ spoiler) {
	first, second := sample("a"), sample("a")
	second.Title, second.Owner = "another", "bob"
	must(t, s.Insert(t.Context(), first))
	wantErr(t, s.Insert(t.Context(), second), ErrDuplicate)
	got, err := s.Get(t.Context(), "a")
	must(t, err)
	wantSame(t, got, first)
	insert(t, s, "A") // another _id
	_, err = s.Get(t.Context(), "b")
	wantErr(t, err, ErrNotFound)
}

func conformReplace(t *testing.T, s Store, _ spoiler) {
	insert(t, s, "a", "b")
	m := sample("a")
	m.Title, m.BoundaryID, m.Description, m.YCoord = "$title", nil, "", -89.5
	m.Owner, m.CreatedAt, m.UpdatedAt = "mallory", noon, noon
	got, err := s.Replace(t.Context(), m, Owner("alice"))
	must(t, err)
	m.Owner, m.CreatedAt = "alice", dawn
	wantSame(t, got, m)
	stored, err := s.Get(t.Context(), "a")
	must(t, err)
	wantSame(t, stored, m)
	other, err := s.Get(t.Context(), "b")
	must(t, err)
	wantSame(t, other, sample("b"))
	_, err = s.Replace(t.Context(), sample("c"), Admin)
	wantErr(t, err, ErrNotFound)
	_, err = s.Get(t.Context(), "c")
	wantErr(t, err, ErrNotFound)
}

func conformReplaceSame(t *testing.T, s Store, _ spoiler) {
	bare := sample("bare")
	bare.ConstructionType, bare.DateDiff, bare.Description, bare.BoundaryID, bare.Title = nil, 0, "", nil, ""
	for _, m := range []Inmueble{sample("full"), bare} {
		must(t, s.Insert(t.Context(), m))
		again := m
		again.UpdatedAt = noon
		got, err := s.Replace(t.Context(), again, Owner("alice"))
		must(t, err)
		wantSame(t, got, m) // updated_at stays at dawn

		for i := range fields[1:] { // and each field counts as a change
			f := &fields[1+i]
			again.UpdatedAt = again.UpdatedAt.Add(time.Hour)
			switch p := f.at(&again).(type) {
			case *string:
				*p += "x"
			case *int32:
				*p++
			case **int32:
				v := int32(0)
				*p = &v
			case *bool:
				*p = !*p
			case *float64:
				*p++
			}
			got, err := s.Replace(t.Context(), again, Owner("alice"))
			must(t, err)
			wantSame(t, got, again)
		}
	}
}

func conformOwnership(t *testing.T, s Store, _ spoiler) {
	insert(t, s, "hers")
	nobodys := sample("nobody's")
	nobodys.Owner = ""
	must(t, s.Insert(t.Context(), nobodys))
	changed := func(id string) Inmueble {
		m := sample(id)
		m.Title, m.UpdatedAt = "changed", noon
		return m
	}
	for _, by := range []By{Owner("bob"), Owner("Alice"), Owner(""), {}} {
		for _, id := range []string{"hers", "nobody's"} {
			_, err := s.Replace(t.Context(), changed(id), by)
			wantErr(t, err, ErrNotOwner)
			wantErr(t, s.Delete(t.Context(), id, by), ErrNotOwner)
		}
		_, err := s.Replace(t.Context(), changed("none"), by)
		wantErr(t, err, ErrNotFound)
		wantErr(t, s.Delete(t.Context(), "none", by), ErrNotFound)
	}
	got, err := s.Get(t.Context(), "hers")
	must(t, err)
	wantSame(t, got, sample("hers"))
	got, err = s.Get(t.Context(), "nobody's")
	must(t, err)
	wantSame(t, got, nobodys)

	got, err = s.Replace(t.Context(), changed("nobody's"), Admin)
	must(t, err)
	if got.Owner != "" {
		t.Errorf("an admin's change made nobody's inmueble %q's", got.Owner)
	}
	got, err = s.Replace(t.Context(), changed("hers"), Admin)
	must(t, err)
	wantSame(t, got, changed("hers"))
}

func conformDelete(t *testing.T, s Store, _ spoiler) {
	insert(t, s, "a", "b", "c")
	must(t, s.Delete(t.Context(), "b", Owner("alice")))
	wantErr(t, s.Delete(t.Context(), "b", Owner("alice")), ErrNotFound)
	must(t, s.Delete(t.Context(), "c", Admin))
	ids, _ := walk(t, s, 10)
	wantIDs(t, ids, "a")
	insert(t, s, "b") // the _id is free again
}

func conformPages(t *testing.T, s Store, _ spoiler) {
	if ids, _ := walk(t, s, 3); len(ids) != 0 {
		t.Errorf("an empty store lists %q", ids)
	}
	// In the order of their bytes, which is that of their code points.
	want := []string{"!", "0", "00", "1", "A", "a", "a b", "a/b", "b", "z", "~", "Á", "ñ", "\uFFFD", "🏠"}
	shuffled := slices.Clone(want)
	slices.Reverse(shuffled)
	insert(t, s, shuffled...)
	for limit := 1; limit <= len(want)+1; limit++ {
		ids, _ := walk(t, s, limit)
		wantIDs(t, ids, want...)
	}
	page, err := list(t.Context(), s, "a", 2)
	must(t, err)
	if page.Next != "a/b" {
		t.Errorf("next is %q", page.Next)
	}
	page, err = list(t.Context(), s, "\U0010FFFF", 2)
	must(t, err)
	if len(page.Items) != 0 || page.Next != "" {
		t.Errorf("after the last: %d items, next %q", len(page.Items), page.Next)
	}
	if page, err = list(t.Context(), s, "", len(want)); err != nil || page.Next != "" {
		t.Errorf("a page that holds all has a next: %q, %v", page.Next, err)
	}
}

func conformWalk(t *testing.T, s Store, _ spoiler) {
	insert(t, s, "b", "d", "f", "h", "j")
	var ids []string
	for after, n := "", 0; ; n++ {
		page, err := list(t.Context(), s, after, 2)
		must(t, err)
		for _, m := range page.Items {
			ids = append(ids, m.ID)
		}
		if after = page.Next; after == "" {
			break
		}
		if n == 0 { // one before, the cursor itself, one behind
			insert(t, s, "a")
			must(t, s.Delete(t.Context(), after, Admin))
			insert(t, s, "e")
		}
	}
	wantIDs(t, ids, "b", "d", "e", "f", "h", "j")
}

func conformLarge(t *testing.T, s Store, _ spoiler) {
	const size = 80_000 // bytes of a description of 20,000 characters
	const many = 2*maxPageBytes/size + 2
	_, err := importInto(t.Context(), s, func(yield func(Inmueble, error) bool) {
		for i := range many {
			m := sample(fmt.Sprintf("%03d", i))
			m.Description = strings.Repeat("🏠", size/4)
			if !yield(m, nil) {
				return
			}
		}
	})
	must(t, err)
	page, err := list(t.Context(), s, "", 1000)
	must(t, err)
	if n := len(page.Items); n*size > maxPageBytes+2*size || n*size < maxPageBytes-2*size || page.Next == "" {
		t.Errorf("a page of %d large documents, next %q", n, page.Next)
	}
	if ids, _ := walk(t, s, 1000); len(ids) != many {
		t.Errorf("%d documents listed, want %d", len(ids), many)
	}
}

func conformUnreadable(t *testing.T, s Store, spoil spoiler) {
	good := []string{"0", "9"}
	insert(t, s, good...)
	var bad []string
	for i, how := range spoilings {
		id := fmt.Sprintf("5 %d", i)
		spoil(t, id, "alice", how)
		bad = append(bad, id)
		_, err := s.Get(t.Context(), id)
		if !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: Get returns %v, want %v", how, err, ErrUnreadable)
		}
		wantErr(t, err, ErrInvalid)
		wantErr(t, s.Insert(t.Context(), sample(id)), ErrDuplicate)
	}
	for limit := 1; limit <= 10; limit++ {
		ids, unreadable := walk(t, s, limit)
		wantIDs(t, ids, good...)
		wantIDs(t, unreadable, bad...)
	}

	// The owner's condition holds for them too. A repair keeps the owner.
	_, err := s.Replace(t.Context(), sample(bad[0]), Owner("bob"))
	wantErr(t, err, ErrNotOwner)
	for i, id := range bad {
		m := sample(id)
		m.Owner, m.UpdatedAt = "admin", noon
		by := Admin
		if i == 0 {
			by = Owner("alice")
		}
		got, err := s.Replace(t.Context(), m, by)
		must(t, err)
		if got.Owner != "alice" {
			t.Errorf("%s: the repaired inmueble is %q's", spoilings[i], got.Owner)
		}
		stored, err := s.Get(t.Context(), id)
		must(t, err)
		wantSame(t, stored, got)
		must(t, s.Delete(t.Context(), id, Admin))
	}
	spoil(t, "x", "alice", notFinite)
	wantErr(t, s.Delete(t.Context(), "x", Owner("bob")), ErrNotOwner)
	must(t, s.Delete(t.Context(), "x", Admin))
}

// docsOf yields n samples, then fails with err unless that is nil.
func docsOf(n int, err error) iter.Seq2[Inmueble, error] {
	return func(yield func(Inmueble, error) bool) {
		for i := range n {
			if !yield(sample(fmt.Sprintf("%06d", i)), nil) {
				return
			}
		}
		if err != nil {
			yield(Inmueble{}, err)
		}
	}
}

// importInto loads docs, none of which may be there.
func importInto(ctx context.Context, s Store, docs iter.Seq2[Inmueble, error]) (int, error) {
	l, err := s.Load(ctx, Batch{By: Admin, Rows: rowsOf(docs)})
	return l[Inserted], err
}

func rowsOf(docs iter.Seq2[Inmueble, error]) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		for m, err := range docs {
			if !yield(Row{m, allGiven}, err) {
				return
			}
		}
	}
}

func conformImport(t *testing.T, s Store, _ spoiler) {
	if n, err := importInto(t.Context(), s, docsOf(0, nil)); n != 0 || err != nil {
		t.Errorf("an empty import: %d, %v", n, err)
	}
	const many = importBatch + importBatch/2
	insert(t, s, "a")
	if n, err := importInto(t.Context(), s, docsOf(many, nil)); n != many || err != nil {
		t.Fatalf("imported %d, %v", n, err)
	}
	ids, _ := walk(t, s, 700)
	if len(ids) != many+1 {
		t.Errorf("%d documents stored, want %d", len(ids), many+1)
	}
	got, err := s.Get(t.Context(), "000042")
	must(t, err)
	wantSame(t, got, sample("000042"))
}

func conformImportFails(t *testing.T, s Store, _ spoiler) {
	const taken = importBatch + 7
	id := fmt.Sprintf("%06d", taken)
	insert(t, s, id)
	boom := errors.New("boom")
	if n, err := importInto(t.Context(), s, docsOf(taken-1, boom)); n != 0 || !errors.Is(err, boom) {
		t.Errorf("docs that fail: %d, %v", n, err)
	}
	n, err := importInto(t.Context(), s, docsOf(taken+importBatch, nil))
	dup, ok := errors.AsType[*BatchError](err)
	if n != 0 || !ok || dup.ID != id || dup.Ordinal != taken {
		t.Errorf("an _id taken in the database: %d, %+v, %v", n, dup, err)
	}
	wantErr(t, err, ErrDuplicate)
	n, err = importInto(t.Context(), s, func(yield func(Inmueble, error) bool) {
		_ = yield(sample("x"), nil) && yield(sample("y"), nil) && yield(sample("x"), nil) && yield(sample("z"), nil)
	})
	if dup, ok = errors.AsType[*BatchError](err); n != 0 || !ok || dup.ID != "x" || dup.Ordinal != 2 {
		t.Errorf("an _id twice in the import: %d, %+v, %v", n, dup, err)
	}
	ids, _ := walk(t, s, 100)
	wantIDs(t, ids, id)
	if n, err := importInto(t.Context(), s, docsOf(10, nil)); n != 10 || err != nil {
		t.Errorf("after failed imports: %d, %v", n, err)
	}
}

const racers = 8

// race runs f in several goroutines at once and counts the errors of each
// kind; nil is under "".
func race(t *testing.T, f func(i int) error, kinds ...error) map[error]int {
	t.Helper()
	var wg sync.WaitGroup
	start := make(chan struct{})
	results := make([]error, racers)
	for i := range racers {
		wg.Go(func() {
			<-start
			results[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	counts := map[error]int{}
next:
	for _, err := range results {
		if err == nil {
			counts[nil]++
			continue
		}
		for _, kind := range kinds {
			if errors.Is(err, kind) {
				counts[kind]++
				continue next
			}
		}
		t.Errorf("a racer got %v", err)
	}
	return counts
}

func conformRaceInsert(t *testing.T, s Store, _ spoiler) {
	for round := range 5 {
		id := fmt.Sprint(round)
		got := race(t, func(i int) error {
			m := sample(id)
			m.Owner = fmt.Sprint(i)
			return s.Insert(t.Context(), m)
		}, ErrDuplicate)
		if got[nil] != 1 || got[ErrDuplicate] != racers-1 {
			t.Errorf("%d of %d inserts of one _id stored", got[nil], racers)
		}
	}
}

func conformRaceReplace(t *testing.T, s Store, _ spoiler) {
	insert(t, s, "a")
	for range 5 {
		race(t, func(i int) error {
			m := sample("a")
			// Two fields that must never be seen from two writers.
			m.Title, m.EndWeek = fmt.Sprint(i), int32(i)
			if i%2 == 0 {
				got, err := s.Get(t.Context(), "a")
				if err == nil && got.Title != "Ático 🏠" && got.Title != fmt.Sprint(got.EndWeek) {
					return fmt.Errorf("seen half: %s, %d", got.Title, got.EndWeek)
				}
				return err
			}
			got, err := s.Replace(t.Context(), m, Owner("alice"))
			if err == nil && (got.Title != m.Title || got.EndWeek != m.EndWeek) {
				return errors.New("was answered somebody else's write")
			}
			return err
		})
	}
}

func conformRaceDelete(t *testing.T, s Store, _ spoiler) {
	for round := range 5 {
		id := fmt.Sprint(round)
		insert(t, s, id)
		got := race(t, func(i int) error {
			if i%2 == 0 {
				if _, err := s.Replace(t.Context(), sample(id), Owner("alice")); err != nil && !errors.Is(err, ErrNotFound) {
					return err
				}
				return ErrNotFound // counts for nothing
			}
			return s.Delete(t.Context(), id, Owner("alice"))
		}, ErrNotFound)
		if got[nil] != 1 {
			t.Errorf("%d deletes of one inmueble succeeded", got[nil])
		}
		if _, err := s.Get(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("after its delete: %v", err)
		}
	}
}

func conformRaceImport(t *testing.T, s Store, _ spoiler) {
	const n = 50
	counts := race(t, func(i int) error {
		if i == 0 {
			_, err := importInto(t.Context(), s, docsOf(n, nil))
			return err
		}
		m := sample(fmt.Sprintf("%06d", n/2))
		m.Owner = "racer"
		return s.Insert(t.Context(), m)
	}, ErrDuplicate, ErrUnavailable)
	if counts[nil] != 1 {
		t.Errorf("%d of one import and %d inserts of one of its _ids succeeded", counts[nil], racers-1)
	}
	ids, _ := walk(t, s, 100)
	if len(ids) != n && len(ids) != 1 {
		t.Errorf("%d documents: the import was stored by half", len(ids))
	}
}

func conformContext(t *testing.T, s Store, _ spoiler) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, s.Insert(ctx, sample("a")), context.Canceled)
	_, err := s.Get(ctx, "a")
	wantErr(t, err, context.Canceled)
	_, err = list(ctx, s, "", 1)
	wantErr(t, err, context.Canceled)
	_, err = importInto(ctx, s, docsOf(3, nil))
	wantErr(t, err, context.Canceled)
	wantErr(t, s.Check(ctx), context.Canceled)
	ids, _ := walk(t, s, 10)
	wantIDs(t, ids)
}
