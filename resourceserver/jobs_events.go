package resourceserver

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humamux"

	"github.com/urbandata/urbandata/pkg/i18n"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/web"
)

const (
	// How many streams of events there may be, each of which costs a look at
	// the database every eventPoll.
	maxStreams      = 200
	maxStreamsOwner = 5

	eventPoll  = time.Second
	eventAlive = 15 * time.Second // a comment, so that nobody between takes the stream for dead
)

// streams counts answers that last for as long as their readers like.
type streams struct {
	mu      sync.Mutex // guards what follows
	all     int
	ofOwner map[string]int
}

// errOwnersStreams says that an owner has as many open as may be.
var errOwnersStreams = errors.New("resourceserver: too many streams of one owner")

// enter counts one in, or returns errOwnersStreams, or a problem where all have
// too many.
func (c *streams) enter(owner string, mostOfOwner, most int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ofOwner[owner] >= mostOfOwner:
		return errOwnersStreams
	case c.all >= most:
		return web.Unavailable(10 * time.Second)
	}
	if c.ofOwner == nil {
		c.ofOwner = map[string]int{}
	}
	c.all++
	c.ofOwner[owner]++
	return nil
}

func (c *streams) leave(owner string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.ofOwner[owner]--; c.ofOwner[owner] == 0 {
		delete(c.ofOwner, owner)
	}
}

// events sends the import whenever it has changed, as server-sent events
// (WHATWG HTML §9.2), until it is final, its reader leaves, the token expires
// or the server stops. A reader that comes again says which event it has. An
// event's id is drawn from what it says: every server has the same, and none
// has to remember what was sent.
func (s *Server) events(ctx context.Context, id, last string) (func(huma.Context), error) {
	sub, _ := asker(ctx)
	claims, _ := verify.FromContext(ctx)
	if err := s.streams.enter(sub, maxStreamsOwner, maxStreams); errors.Is(err, errOwnersStreams) {
		return nil, web.NewProblem(http.StatusTooManyRequests, "too_many_requests", i18n.Textf(
			"You have %d streams of events open. Close one, or ask without Accept: %s.", maxStreamsOwner, typeEvents)).With("Retry-After", "10")
	} else if err != nil {
		return nil, err
	}
	return func(hctx huma.Context) {
		defer s.streams.leave(sub)
		hctx.SetHeader("Cache-Control", "no-store")
		hctx.SetHeader("Content-Language", web.Language(ctx).Tag)
		hctx.SetHeader("X-Accel-Buffering", "no") // nginx would keep it
		r, w := humamux.Unwrap(hctx)
		control := http.NewResponseController(w)
		send := func(text string) bool {
			_ = control.SetWriteDeadline(time.Now().Add(streamTimeout)) // a recorder in a test has none
			_, err := w.Write([]byte(text))
			return err == nil && control.Flush() == nil
		}
		if !send("retry: 2000\n\n") {
			return
		}
		reading := verify.NewContext(r.Context(), claims)
		poll := time.NewTicker(eventPoll)
		defer poll.Stop()
		quiet, l := time.Now(), web.Language(ctx)
		for {
			var j Job
			var p JobProgress
			err := s.inTime(reading, func(ctx context.Context) (err error) {
				j, p, err = s.look(ctx, id)
				return err
			})
			if err != nil { // its reader comes again, and is told
				web.NoteCause(r.Context(), err)
				return
			}
			v := view(l, &j, p)
			body := v.json()
			if tag := strings.Trim(etagOf(body), `"`); tag != last {
				if !send("event: import\nid: " + tag + "\ndata: " + string(body) + "\n\n") {
					return
				}
				last, quiet = tag, time.Now()
			}
			if j.State.Final() || !s.now().Before(claims.ExpiresAt()) {
				return
			}
			if time.Since(quiet) >= eventAlive {
				if !send(": alive\n\n") {
					return
				}
				quiet = time.Now()
			}
			select {
			case <-reading.Done():
				return
			case <-s.Health.Draining():
				return
			case <-poll.C:
			}
		}
	}, nil
}

// open is how many there are.
func (c *streams) open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}
