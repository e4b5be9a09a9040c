package resourceserver

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humamux"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/web"
)

// streamed are the types in which a list is everything that matches, written
// as it is read.
var streamed = map[string]*Format{
	"application/x-ndjson": &NDJSON,
	"text/csv":             &CSV,
	"application/geo+json": &GeoJSON,
}

// listTypes are those that a list can be had in; the first is had without an
// Accept.
var listTypes = []string{typeJSON, typeObject, "application/x-ndjson", "text/csv", "application/geo+json"}

// findInTime gives each page its own time: a list that is streamed may take as
// long as its reader does, but no page may.
func (s *Server) findInTime(ctx context.Context, q Query) (Page, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return s.store.Find(ctx, q)
}

const (
	// streamTimeout is how long a reader may take for a piece of a list, of 64
	// KiB at most (pkg/web sees to that): one that stands still is cut off soon.
	streamTimeout = 15 * time.Second

	// How many lists may be streamed. Each holds a page in memory for as long
	// as its reader takes, and nothing of the database.
	maxLists      = 64
	maxListsOwner = 8
)

// stream writes everything that matches, a page at a time. The first page is
// read before the answer begins, so that a database that is away is still a
// 503. Later it is too late for a status: the connection is cut, which any
// reader can tell from the end of the list.
func (s *Server) stream(ctx context.Context, l *listing, f *Format) (func(huma.Context), error) {
	for _, name := range []string{paramSelect, paramLimit, paramOffset, paramCursor} {
		if l.params.Has(name) {
			return nil, wrong(name, "can't be used with this Accept", "such an answer has everything that matches, whole; ask for "+typeJSON+" to get pages")
		}
	}
	sub, _ := asker(ctx)
	if err := s.lists.enter(sub, maxListsOwner, maxLists); errors.Is(err, errOwnersStreams) {
		return nil, web.NewProblem(http.StatusTooManyRequests, "too_many_requests", i18n.Textf(
			"You are reading %d lists to their ends. Wait for one, or ask for %s to get pages.", maxListsOwner, typeJSON)).With("Retry-After", "10")
	} else if err != nil {
		return nil, err
	}
	q := l.Query
	q.Limit = maxLimit
	answers := takeAnswers()
	if f.MediaType == NDJSON.MediaType { // a line is an answer
		q.Into = answers
	}
	first, err := s.store.Find(ctx, q)
	if err != nil {
		s.lists.leave(sub)
		return nil, s.problem(ctx, "", err)
	}
	return func(hctx huma.Context) {
		defer s.lists.leave(sub)
		defer answers.giveBack()
		r, w := humamux.Unwrap(hctx)
		control := http.NewResponseController(w)
		reading := r.Context() // ends when the client leaves, and not before
		buf, n := f.Begin(nil), 0
		for page := first; ; {
			for _, u := range page.Unreadable {
				s.leftOut(reading, u.ID)
			}
			buf = answers.appendLines(buf)
			for i := range page.Items {
				buf = f.Append(buf, n, &page.Items[i])
				n++
			}
			if !page.More {
				buf = f.End(buf)
			}
			_ = control.SetWriteDeadline(time.Now().Add(streamTimeout)) // a recorder in a test has none
			if _, err := w.Write(buf); err != nil {
				web.NoteCause(reading, err)
				panic(http.ErrAbortHandler)
			}
			if !page.More {
				return
			}
			buf = buf[:0]
			answers.clear()
			q.After, q.Skip = page.After, page.Skip
			if page, err = s.findInTime(reading, q); err != nil {
				web.NoteCause(reading, err)
				panic(http.ErrAbortHandler)
			}
		}
	}, nil
}
