package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/urbandata/urbandata/pkg/web"
)

// group runs what a process is made of. Servers drain while the rest still
// works: a request that ends during the drain may need keys or a database.
type group struct {
	log     *slog.Logger
	metrics *prometheus.Registry
	debug   net.Listener

	background []func(context.Context) error // until after the drain
	servers    []*web.Server
	closers    []func() error // after everything, the last one first
}

// drainFlags are how a service stops.
type drainFlags struct {
	Delay   time.Duration `name:"delay" default:"1s" env:"URBANDATA_DRAIN_DELAY" help:"After SIGTERM, how long /readyz says 503 before no more connections are taken, so that load balancers notice. (${env})"`
	Timeout time.Duration `name:"timeout" default:"20s" env:"URBANDATA_DRAIN_TIMEOUT" help:"How long running requests then have to end. (${env})"`
}

func newGroup(log *slog.Logger) *group {
	g := &group{log: log, metrics: prometheus.NewRegistry()}
	g.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return g
}

// listenDebug binds the listener of metrics and profiles. A taken default port
// is no reason not to start: several services run on one machine.
func (g *group) listenDebug(p *program, address, defaultAddress string) error {
	if address == "off" {
		return nil
	}
	l, err := listen(p, "--metrics-listen (URBANDATA_METRICS_LISTEN)", address)
	if err != nil && address == defaultAddress && portTaken(p.ctx, address) {
		l, err = listen(p, "--metrics-listen (URBANDATA_METRICS_LISTEN)", "127.0.0.1:0")
		if err == nil {
			g.log.Warn("the usual port for metrics is taken; another is used", slog.String("address", l.Addr().String()))
		}
	}
	g.debug = l
	return err
}

func portTaken(ctx context.Context, address string) bool {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err == nil {
		_ = l.Close() // it was free again
	}
	return errors.Is(err, syscall.EADDRINUSE)
}

func (g *group) serve(name string, l net.Listener, h http.Handler, health *web.Health, drain drainFlags) {
	g.servers = append(g.servers, &web.Server{
		Name: name, Listener: l, Handler: h, Health: health, Log: g.log, Metrics: g.metrics,
		DrainDelay: drain.Delay, DrainTimeout: drain.Timeout,
	})
}

// run runs until ctx ends or something fails, then stops in order: the
// servers drain, the background work ends, the databases close.
func (g *group) run(ctx context.Context) error {
	backgroundCtx, endBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer endBackground()
	serving, ctx := errgroup.WithContext(ctx)
	background, _ := errgroup.WithContext(backgroundCtx)
	failed := make(chan error, len(g.background)+1)
	for _, f := range g.background {
		background.Go(func() error {
			err := f(backgroundCtx)
			if err != nil {
				failed <- err
			}
			return err
		})
	}
	if g.debug != nil {
		debug := &http.Server{Handler: web.DebugHandler(g.metrics), ReadHeaderTimeout: 5 * time.Second}
		background.Go(func() error {
			<-backgroundCtx.Done()
			return debug.Close()
		})
		background.Go(func() error {
			if err := debug.Serve(g.debug); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
				return fmt.Errorf("serve metrics: %w", err)
			}
			return nil
		})
	}
	for _, s := range g.servers {
		serving.Go(func() error { return s.Run(ctx) })
	}
	stopped := make(chan struct{})
	serving.Go(func() error { // a background failure ends the servers too
		select {
		case err := <-failed:
			return err
		case <-stopped:
			return nil
		case <-ctx.Done():
			return nil
		}
	})
	err := serving.Wait()
	close(stopped)
	endBackground()
	return errors.Join(err, background.Wait(), g.close())
}

// close closes what was opened, for a start that didn't come to run too.
func (g *group) close() error {
	var errs []error
	for i := len(g.closers) - 1; i >= 0; i-- {
		errs = append(errs, g.closers[i]())
	}
	g.closers = nil
	return errors.Join(errs...)
}
