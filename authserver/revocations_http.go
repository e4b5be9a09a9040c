package authserver

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/urbandata/urbandata/pkg/web"
)

// streamWrite is how long a reader of a stream may take for one event. A
// slower one is dropped, and can come again: it holds up nobody else, and no
// event is kept for it.
const streamWrite = 5 * time.Second

// lateWait is how long a replica may take to come up to a place that a reader
// has been told of by another.
const lateWait = time.Second

// revocationsType is a JWT's (RFC 7519 §10.3.1).
const revocationsType = "application/jwt"

// Values of header fields that are always the same.
var (
	listType = []string{revocationsType}
	// A cache between may answer for a second: who polls is a second later,
	// and any number of pollers cost one request.
	listCaching = []string{"public, max-age=1"}
)

// serveRevocations sends the list as it was signed last.
func (s *Server) serveRevocations(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Access-Control-Allow-Origin"] = anyOrigin
	h["Cross-Origin-Resource-Policy"] = crossOrigin
	list := s.feed.held(r.Context())
	if list == nil {
		web.Unavailable(time.Second).Write(w, r) // the database is away, and the log has said so
		return
	}
	h["Etag"] = list.etag
	h["Cache-Control"] = listCaching
	if web.MatchesETag(r.Header["If-None-Match"], list.id) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h["Content-Type"] = listType
	h["Content-Length"] = list.length
	_, _ = w.Write(list.body) // the client may have left; there is nobody to tell
}

// streamRevocations sends what is new as it comes (Server-Sent Events), from
// the place that the reader holds on: Last-Event-ID, or else the list first.
func (s *Server) streamRevocations(w http.ResponseWriter, r *http.Request) {
	done, ok := s.feed.streams.open(peerOf(s.notePeer(r.Context(), r, w.Header().Set)).network())
	select {
	case <-s.Health.Draining():
		ok = false
	default:
	}
	if !ok {
		if done != nil {
			done()
		}
		web.Unavailable(10*time.Second).Write(w, r)
		return
	}
	defer done()

	list := s.feed.held(r.Context())
	if list == nil {
		web.Unavailable(time.Second).Write(w, r)
		return
	}
	held, err := strconv.ParseInt(r.Header.Get("Last-Event-ID"), 10, 64)
	resumes := err == nil && held >= 0
	if resumes {
		resumes = s.feed.caughtUp(r.Context(), held)
	}

	h := w.Header()
	h["Access-Control-Allow-Origin"] = anyOrigin
	h["Cross-Origin-Resource-Policy"] = crossOrigin
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would collect events
	out := eventWriter{w, http.NewResponseController(w)}
	// The time for reading a request would otherwise end the stream.
	if err := out.control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		web.NoteCause(r.Context(), err)
		return
	}
	err = s.feed.stream(r.Context(), s.Health.Draining(), out, held, resumes)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.feed.streams.dropped.Inc()
	}
	if err != nil {
		web.NoteCause(r.Context(), err)
	}
}

// held is the list, or nil if there is none that still counts. In a process
// that has just begun it waits a moment for the first.
func (f *feed) held(ctx context.Context) *feedList {
	list := f.list.Load()
	if list == nil {
		ctx, cancel := context.WithTimeout(ctx, lateWait)
		defer cancel()
		select {
		case <-f.first:
			list = f.list.Load()
		case <-ctx.Done():
			return nil
		}
	}
	if !f.now().Before(list.expires) {
		return nil
	}
	return list
}

// caughtUp waits a moment for this replica to come up to a place that another
// has published, and says whether it has.
func (f *feed) caughtUp(ctx context.Context, seq int64) bool {
	ctx, cancel := context.WithTimeout(ctx, lateWait)
	defer cancel()
	for {
		st := f.current.Load()
		if st.seq >= seq {
			return true
		}
		f.store.ended() // have it look now
		select {
		case <-st.next:
		case <-ctx.Done():
			return false
		}
	}
}

// stream writes events until the reader is gone or too slow, or the server
// drains.
func (f *feed) stream(ctx context.Context, draining <-chan struct{}, out eventWriter, held int64, resumes bool) error {
	list := f.list.Load() // before the state, which is never older
	st := f.current.Load()
	first := event(list.seq, string(list.body))
	if resumes {
		var err error
		if first, err = f.since(st, held); err != nil {
			return err
		}
	}
	if held = st.seq; !resumes {
		held = list.seq
	}
	if err := out.write(first); err != nil {
		return err
	}
	for {
		if st.seq == held { // else the list was older than st
			select {
			case <-st.next:
			case <-ctx.Done():
				return nil
			case <-draining:
				return nil
			}
			st = f.current.Load()
		}
		if st.seq < held { // the database was restored: begin anew
			return nil
		}
		text, err := f.since(st, held)
		if err != nil {
			return err
		}
		if err := out.write(text); err != nil {
			return err
		}
		held = st.seq
	}
}

// eventWriter sends one event at a time.
type eventWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (w eventWriter) write(event []byte) error {
	if err := w.control.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := w.Write(event); err != nil {
		return err
	}
	return w.control.Flush()
}
