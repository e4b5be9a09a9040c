package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// pipeListener is a listener whose connections are pipes, which a synctest
// bubble can see blocking.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{make(chan net.Conn), make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { close(l.done); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipeListener) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			select {
			case l.conns <- there:
				return here, nil
			case <-l.done:
				return nil, net.ErrClosed
			}
		},
		DisableKeepAlives: true,
	}}
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewAPI(Info{Title: "t", Version: "1"})
		health := NewHealth()
		health.Register(a)
		started := make(chan struct{})
		a.Router.Path("/slow").HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(started)
			time.Sleep(3 * time.Second) // the bubble's clock
			_, _ = io.WriteString(w, "done")
		})
		log := slog.New(slog.DiscardHandler)
		l := newPipeListener()
		s := &Server{
			Name: "t", Listener: l, Health: health, Log: log, DrainDelay: time.Second, DrainTimeout: 10 * time.Second,
			Handler: a.Handler(log, NewMetrics(prometheus.NewRegistry(), "t")),
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		client := l.client()
		status := func(path string) int {
			res, err := client.Get("http://pipe" + path)
			if err != nil {
				return 0
			}
			defer func() { _ = res.Body.Close() }()
			return res.StatusCode
		}
		if got := status("/readyz"); got != 200 {
			t.Fatalf("/readyz %d before the drain", got)
		}
		slow := make(chan int, 1)
		go func() { slow <- status("/slow") }()
		<-started
		stop()
		synctest.Wait()
		if got := status("/readyz"); got != 503 {
			t.Errorf("/readyz %d while draining, want 503", got)
		}
		if got := status("/livez"); got != 200 {
			t.Errorf("/livez %d while draining, want 200", got)
		}
		if got := <-slow; got != 200 {
			t.Errorf("the running request ended with %d", got)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if got := status("/livez"); got != 0 {
			t.Errorf("still answers %d after the drain", got)
		}
	})
}

func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fail error
		h := NewHealth(
			Check{"database", func(context.Context) error { return fail }},
			Check{"slow", func(ctx context.Context) error {
				if fail == nil {
					return nil
				}
				<-ctx.Done() // a hanging check is cut off
				return ctx.Err()
			}},
		)
		get := func() int {
			rec := &statusRecorder{header: http.Header{}}
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil)
			h.ready(rec, r)
			return rec.status
		}
		if got := get(); got != 200 {
			t.Errorf("ready: %d", got)
		}
		fail = errors.New("down")
		before := time.Now()
		if got := get(); got != 503 {
			t.Errorf("failing: %d", got)
		}
		if took := time.Since(before); took != checkTimeout {
			t.Errorf("took %v, want %v", took, checkTimeout)
		}
	})
}

type statusRecorder struct {
	header http.Header
	status int
}

func (r *statusRecorder) Header() http.Header         { return r.header }
func (r *statusRecorder) Write(b []byte) (int, error) { return len(b), nil }
func (r *statusRecorder) WriteHeader(status int)      { r.status = status }
