package web

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// served is a server in a synctest bubble, whose clients are pipes: nothing
// lies in a buffer between.
type served struct {
	t *testing.T
	l *pipeListener
}

func serveTest(t *testing.T, most int, reg prometheus.Registerer, h http.Handler) served {
	s := served{t, newPipeListener()}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	server := &Server{Name: "t", Listener: s.l, Handler: h, Log: slog.New(slog.DiscardHandler), Metrics: reg, most: most}
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s served) dial() net.Conn {
	here, there := net.Pipe()
	s.l.conns <- there
	return here
}

// ask sends a request on a connection that stays.
func ask(conn net.Conn) error {
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return errors.Join(err, res.Body.Close())
}

// Those who say nothing never keep anybody out, and nobody is cut off who is
// being answered.
func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 4
		release := make(chan struct{})
		reg := prometheus.NewRegistry()
		s := serveTest(t, most, reg, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				<-release
			}
		}))
		gone := func(conn net.Conn) bool {
			synctest.Wait()
			_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := conn.Read(make([]byte, 1))
			return errors.Is(err, io.EOF)
		}
		working := s.dial()
		if _, err := io.WriteString(working, "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		silent := s.dial() // not a byte comes
		synctest.Wait()
		var idle []net.Conn
		for range most - 2 {
			idle = append(idle, s.dial())
			if err := ask(idle[len(idle)-1]); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // until it counts as idle
		}
		if err := ask(idle[0]); err != nil { // now the other one has been idle for longer
			t.Fatal(err)
		}
		synctest.Wait()
		for i, want := range []net.Conn{silent, idle[1], idle[0]} {
			next := s.dial()
			defer func() { _ = next.Close() }()
			if err := ask(next); err != nil {
				t.Errorf("connection %d of %d isn't served: %v", most+1+i, most, err)
			}
			if !gone(want) {
				t.Errorf("connection %d didn't take the place of the one that waited longest", most+1+i)
			}
		}
		close(release)
		res, err := http.ReadResponse(bufio.NewReader(working), nil)
		if err != nil {
			t.Fatalf("a request that was being answered was cut off: %v", err)
		}
		if err := res.Body.Close(); err != nil || res.StatusCode != 200 {
			t.Errorf("it was answered %d, %v", res.StatusCode, err)
		}
		for range 1000 { // also a crowd leaves no trace
			_ = s.dial().Close()
		}
		synctest.Wait()
		_ = working.Close()
		time.Sleep(idleTimeout) // the bubble's clock
		synctest.Wait()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]float64{}
		for _, f := range families {
			m := f.GetMetric()[0]
			values[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
		if open, shed := values["urbandata_http_connections"], values["urbandata_http_connections_shed_total"]; open != 0 || shed < 3 {
			t.Errorf("%v open, want 0; %v shed, want 3 at least", open, shed)
		}
	})
}

// A client that sends or reads a byte a second is cut off in time, and holds
// nothing afterwards.
func TestSlowClients(t *testing.T) {
	// drip writes a byte a second until it is cut off; done then ends.
	var done sync.WaitGroup
	drip := func(conn net.Conn, text string) {
		done.Go(func() {
			for i := range len(text) {
				if _, err := conn.Write([]byte{text[i]}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
	}
	const (
		bodyTimeout = 5 * time.Second // huma's, where the operation says no other

		headers = "POST /things HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
		answer  = 1 << 20
	)
	for _, tc := range []struct {
		name   string
		client func(conn net.Conn) []byte // and what it gets
		within time.Duration
		want   string // how the answer begins; "" for none
	}{
		{"header", func(conn net.Conn) []byte {
			drip(conn, strings.Repeat("GET / HTTP/1.1\r\nHost: t\r\n", 100))
			got, _ := io.ReadAll(conn)
			return got
		}, readHeaderTimeout, "HTTP/1.1 400 "}, // net/http takes what has come for the line
		{"header of a second request", func(conn net.Conn) []byte {
			if err := ask(conn); err != nil {
				t.Error(err)
			}
			drip(conn, strings.Repeat("GET / HTTP/1.1\r\nHost: t\r\n", 100))
			got, _ := io.ReadAll(conn)
			return got
		}, readHeaderTimeout + 4*time.Second, "HTTP/1.1 400 "}, // its time begins with four bytes
		{"nothing", func(conn net.Conn) []byte {
			got, _ := io.ReadAll(conn)
			return got
		}, readHeaderTimeout, ""},
		{"body", func(conn net.Conn) []byte {
			if _, err := io.WriteString(conn, headers); err != nil {
				t.Error(err)
			}
			drip(conn, strings.Repeat(" ", 1000))
			got, _ := io.ReadAll(conn)
			return got
		}, bodyTimeout, "HTTP/1.1 408 "},
		{"answer", func(conn net.Conn) []byte {
			if _, err := io.WriteString(conn, "GET /much HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
				t.Error(err)
			}
			var got []byte
			for {
				one := make([]byte, 1)
				if _, err := conn.Read(one); err != nil {
					return got
				}
				got = append(got, one...)
				time.Sleep(time.Second)
			}
		}, pieceTimeout, "HTTP/1.1 200 "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := NewAPI(Info{Title: "t", Version: "1"})
				type thing struct {
					Body struct {
						Name string `json:"name"`
					}
				}
				huma.Register(a.Huma, huma.Operation{OperationID: "things", Method: http.MethodPost, Path: "/things"},
					func(context.Context, *thing) (*struct{}, error) {
						t.Error("it came to the handler")
						return &struct{}{}, nil
					})
				a.Router.Path("/much").HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					if _, err := w.Write(make([]byte, answer)); err == nil {
						t.Error("it was all read")
					}
				})
				a.Router.Path("/").HandlerFunc(func(http.ResponseWriter, *http.Request) {})
				log := slog.New(slog.DiscardHandler)
				s := serveTest(t, 0, nil, a.Handler(log, NewMetrics(prometheus.NewRegistry(), "t")))
				conn := s.dial()
				began := time.Now()
				got := string(tc.client(conn))
				took := time.Since(began)
				_ = conn.Close()
				done.Wait()
				// The pipe's reader sees the end with its next read.
				if took > tc.within+time.Second {
					t.Errorf("it was cut off after %v, want %v", took, tc.within)
				}
				if tc.want == "" && got != "" || !strings.HasPrefix(got, tc.want) {
					t.Errorf("it got %.100q, want %q", got, tc.want)
				}
				if len(got) > answer/2 {
					t.Errorf("it got %d bytes", len(got))
				}
			})
		})
	}
}
