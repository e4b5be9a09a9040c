package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of every public listener. A client that is slower than these is cut
// off; an honest one never is.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = 60 * time.Second // but for one long write
	writePiece        = 64 << 10         // each of which has
	pieceTimeout      = 15 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
)

// Server is one service on one listener.
type Server struct {
	Name     string
	Listener net.Listener
	Handler  http.Handler
	Health   *Health // may be nil

	// DrainDelay is how long the server goes on taking requests after
	// /readyz began to say no, so that load balancers notice. DrainTimeout
	// is how long running requests then have to end.
	DrainDelay   time.Duration
	DrainTimeout time.Duration

	Log     *slog.Logger
	Metrics prometheus.Registerer // may be nil

	most int // connections; what [mostConnections] says if 0
}

// Run serves until ctx ends, then drains: /readyz says 503, DrainDelay passes,
// the listener closes, running requests end. It returns nil after a drain in
// which every request ended in time.
func (s *Server) Run(ctx context.Context) error {
	if s.most == 0 {
		s.most = mostConnections()
	}
	srv := &http.Server{
		Handler:           s.Handler,
		ConnState:         newConnections(s.most, s.Metrics, s.Name).state,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		// net/http's own messages hold the peer's address and its bytes.
		ErrorLog: slog.NewLogLogger(s.Log.With("service", s.Name).Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(s.Listener) }()

	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", s.Name, err)
	case <-ctx.Done():
	}
	if s.Health != nil {
		s.Health.Drain()
		select {
		case <-time.After(s.DrainDelay):
		case err := <-failed:
			return fmt.Errorf("serve %s: %w", s.Name, err)
		}
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(s.DrainTimeout, time.Second))
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		_ = srv.Close()
		return fmt.Errorf("drain %s: %w", s.Name, err)
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", s.Name, err)
	}
	return nil
}

// DebugHandler serves /metrics and /debug/pprof. It belongs on a listener
// that the public can't reach. The profiles mutex and block are taken while
// somebody asks for them, with ?seconds=, and cost nothing otherwise.
func DebugHandler(reg prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/debug/pprof/mutex", sampled("mutex",
		func() { runtime.SetMutexProfileFraction(10) }, func() { runtime.SetMutexProfileFraction(0) }))
	mux.Handle("/debug/pprof/block", sampled("block",
		func() { runtime.SetBlockProfileRate(int(10 * time.Microsecond)) }, func() { runtime.SetBlockProfileRate(0) }))
	return mux
}

// sampled serves a profile for which the runtime collects only while it is
// taken. One is taken at a time.
func sampled(name string, on, off func()) http.Handler {
	var mu sync.Mutex // guards that it is on
	profile := pprof.Handler(name)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("seconds") != "" {
			mu.Lock()
			defer mu.Unlock()
			on()
			defer off()
		}
		profile.ServeHTTP(w, r)
	})
}
