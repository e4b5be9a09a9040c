//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// idleConnections is how many clients stay connected and say nothing.
const idleConnections = 10_000

// strikeIdle has a crowd ask one small thing each, and stay: with our services,
// and with a bare handler.
func strikeIdle(ctx context.Context, v *victims, r *report, _ time.Duration) error {
	bearer, _ := v.seen.Load().(string)
	floor, err := v.launchFloor(ctx, "floor-connections", v.authn)
	if err != nil {
		return err
	}
	defer floor.process.End(syscall.SIGTERM)
	for _, s := range []struct {
		*service
		request string
	}{
		{v.authn, "GET /.well-known/jwks.json HTTP/1.1\r\nHost: authn\r\n\r\n"},
		{v.inmuebles, "GET /inmuebles?limit=1 HTTP/1.1\r\nHost: inmuebles\r\nAuthorization: " + bearer + "\r\n\r\n"},
		{floor, "GET /jwks HTTP/1.1\r\nHost: floor\r\n\r\n"},
	} {
		if err := v.stay(ctx, r, s.service, s.request); err != nil {
			return err
		}
	}
	return nil
}

func (v *victims) stay(ctx context.Context, r *report, s *service, request string) error {
	u, err := url.Parse(s.url)
	if err != nil {
		return err
	}
	n := min(idleConnections, mostFiles())
	newcomers := func(count int) (p50 time.Duration, err error) {
		var took []time.Duration
		for range count {
			began := time.Now()
			conn, err := connect(ctx, u.Host, request)
			if err != nil {
				return 0, err
			}
			took = append(took, time.Since(began))
			_ = conn.Close()
		}
		slices.Sort(took)
		return took[len(took)/2], nil
	}
	if _, err := newcomers(200); err != nil { // what the first ones cost isn't a connection's
		return err
	}
	quiet, err := newcomers(200)
	if err != nil {
		return err
	}
	before := resident(s.process.PID())

	conns := make([]net.Conn, n)
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	}()
	coming, comingCtx := errgroup.WithContext(ctx)
	coming.SetLimit(16)
	for i := range conns {
		coming.Go(func() (err error) {
			conns[i], err = connect(comingCtx, u.Host, request)
			return err
		})
	}
	if err := coming.Wait(); err != nil {
		return fmt.Errorf("have %d connections: %w", n, err)
	}
	after := resident(s.process.PID())
	if open := fmt.Sprintf(`urbandata_http_connections{service=%q}`, s.kind()); s.kind() != "floor" {
		gauges, err := v.gauges(ctx, s, open)
		if err != nil {
			return err
		}
		if got := int(gauges[open]); got < n {
			return fmt.Errorf("%s has %d connections, and %d stayed", s.kind(), got, n)
		}
	}
	crowded, err := newcomers(200)
	if err != nil {
		return fmt.Errorf("with %d connections, one more: %w", n, err)
	}
	r.found(fmt.Sprintf("an idle connection to %s, of %d", s.kind(), n), float64(after-before)/float64(n)/1000, 0, "KB")
	r.found(fmt.Sprintf("a new client of %s beside them, p50", s.kind()), crowded.Seconds()*1000, quiet.Seconds()*1000, "ms")
	return nil
}

// connect sends one request and reads its answer, which must be 200.
func connect(ctx context.Context, address, request string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	err = func() error {
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, request); err != nil {
			return err
		}
		w, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		defer func() { _ = w.Body.Close() }()
		if _, err := io.Copy(io.Discard, w.Body); err != nil {
			return err
		}
		if w.StatusCode != http.StatusOK {
			return fmt.Errorf("answered %d", w.StatusCode)
		}
		return conn.SetDeadline(time.Time{})
	}()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}
