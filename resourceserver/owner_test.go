package resourceserver

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An _id that passes to somebody else between what an Update read and what it
// writes isn't written to. Where that can't happen, the Update comes first.
func TestOwnerChangesDuringUpdate(t *testing.T) {
	const id = "x"
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			s, _ := e.open(t)
			insert(t, s, id)
			bobs := sample(id)
			bobs.Owner, bobs.Title = "bob", "bob's"
			passed := make(chan error, 1)
			times := 0
			_, err := s.Update(t.Context(), id, Owner("alice"), func(m Inmueble) (Inmueble, error) {
				m.Title = "alice's"
				if times++; times > 1 {
					return m, nil
				}
				done := make(chan struct{})
				go func() {
					defer close(done)
					err := s.Delete(t.Context(), id, Admin)
					if err == nil {
						err = s.Insert(t.Context(), bobs)
					}
					passed <- err
				}()
				select { // a store that lets nobody in between lets it in afterwards
				case <-done:
				case <-time.After(200 * time.Millisecond):
				}
				return m, nil
			})
			if err != nil && !errors.Is(err, ErrNotOwner) {
				t.Errorf("the update: %v", err)
			}
			must(t, <-passed)
			got, err := s.Get(t.Context(), id)
			must(t, err)
			wantSame(t, got, bobs)
		})
	}
}

// The condition on the owner is part of every write: while an _id passes from
// one owner to another and back, no way of writing lets the first touch what is
// the second's, though it was the first's a moment ago.
func TestOwnerIsPartOfTheWrite(t *testing.T) {
	const id, enough, most = "x", 3, 20_000
	alice := Owner("alice")
	change := func(how string) Inmueble {
		m := sample(id)
		m.Title, m.UpdatedAt = "alice's, by "+how, noon
		return m
	}
	other := alice.If(match(t, "", `"none"`))
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			s, _ := e.open(t)
			writers := map[string]func(context.Context, string) error{
				"Replace": func(ctx context.Context, how string) error { _, err := s.Replace(ctx, change(how), alice); return err },
				"Replace on a condition": func(ctx context.Context, how string) error {
					_, err := s.Replace(ctx, change(how), other)
					return err
				},
				"Update": func(ctx context.Context, how string) error {
					_, err := s.Update(ctx, id, alice, func(m Inmueble) (Inmueble, error) {
						m.Title = change(how).Title
						return m, nil
					})
					return err
				},
				"Delete on a condition": func(ctx context.Context, _ string) error { return s.Delete(ctx, id, other) },
				"Delete":                func(ctx context.Context, _ string) error { return s.Delete(ctx, id, alice) },
				"Load": func(ctx context.Context, how string) error {
					_, err := s.Load(ctx, Batch{By: alice, OnDuplicate: MergeDuplicate, Replayable: true, Rows: func(yield func(Row, error) bool) {
						yield(Row{Inmueble: change(how), given: 1 << fieldIndex["title"]}, nil)
					}})
					return err
				},
			}
			type count struct{ done, refused atomic.Int64 }
			counts := map[string]*count{}
			ctx := t.Context()
			var stopped atomic.Bool // and no context: it would end what is under way
			defer stopped.Store(true)
			var group sync.WaitGroup
			for name, write := range writers {
				c := &count{}
				counts[name] = c
				group.Go(func() {
					for !stopped.Load() {
						var invalid ValidationError
						switch err := write(ctx, name); {
						case err == nil:
							c.done.Add(1)
						case errors.Is(err, ErrNotOwner):
							c.refused.Add(1)
						case errors.Is(err, ErrNotFound), errors.Is(err, ErrUnavailable), errors.As(err, &invalid):
						default:
							t.Errorf("%s: %v", name, err)
							return
						}
					}
				})
			}
			seen := func() bool {
				for _, c := range counts {
					if c.done.Load() < enough || c.refused.Load() < enough {
						return false
					}
				}
				return true
			}
			rounds := 0
			for ; rounds < most && !seen() && !t.Failed(); rounds++ {
				m := sample(id)
				m.Owner, m.Title = "bob", "bob's"
				must(t, s.Insert(t.Context(), m))
				for range 3 {
					got, err := s.Get(t.Context(), id)
					must(t, err)
					if got.Owner != "bob" || got.Title != "bob's" {
						t.Fatalf("bob's inmueble is now %s's, with the title %q", got.Owner, got.Title)
					}
				}
				must(t, s.Delete(t.Context(), id, Admin))
				must(t, s.Insert(t.Context(), sample(id))) // alice's
				if _, err := s.Get(t.Context(), id); err != nil && !errors.Is(err, ErrNotFound) {
					t.Fatal(err)
				}
				if err := s.Delete(t.Context(), id, Admin); err != nil && !errors.Is(err, ErrNotFound) {
					t.Fatal(err)
				}
			}
			stopped.Store(true)
			group.Wait()
			for name, c := range counts {
				if c.done.Load() < enough || c.refused.Load() < enough {
					t.Errorf("%s: done %d times and refused %d times in %d rounds: the test has shown nothing", name, c.done.Load(), c.refused.Load(), rounds)
				}
			}
			t.Logf("%d rounds", rounds)
		})
	}
}
