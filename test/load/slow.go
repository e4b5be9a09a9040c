//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// slowClients is how many there are that send or read a byte a second.
const slowClients = 3000

// slowly is one way to be slow.
type slowly struct {
	service *service
	at      string // what is sent at once
	drip    string // what is sent a byte a second, again and again; if "", the answer is read so
}

// strikeSlow has a crowd that takes its time: to send headers and bodies, and
// to read answers. Who is cut off comes again a second later.
func strikeSlow(ctx context.Context, v *victims, r *report, d time.Duration) error {
	bearer, _ := v.seen.Load().(string)
	token := "Host: t\r\nAuthorization: " + bearer + "\r\n"
	const body = "Content-Length: 100000\r\n\r\n"
	ways := []slowly{
		{service: v.authn, at: "GET /.well-known/jwks.json HTTP/1.1\r\n", drip: "X-Slow: x\r\n"},
		{service: v.authn, at: "POST /authn/token HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n" + body, drip: " "},
		{service: v.authn, at: "POST /oauth2/token HTTP/1.1\r\nHost: t\r\nContent-Type: " + formType + "\r\n" + body, drip: "a"},
		{service: v.inmuebles, at: "GET /inmuebles HTTP/1.1\r\n" + token, drip: "X-Slow: x\r\n"},
		{service: v.inmuebles, at: "POST /inmuebles HTTP/1.1\r\n" + token + "Content-Type: application/json\r\n" + body, drip: " "},
		{service: v.inmuebles, at: "POST /inmuebles/import HTTP/1.1\r\n" + token + "Content-Type: " + ndjsonType + "\r\n" + body, drip: " "},
		{service: v.inmuebles, at: "GET /inmuebles?limit=1000 HTTP/1.1\r\n" + token + "\r\n"},
		{service: v.inmuebles, at: "GET /inmuebles HTTP/1.1\r\n" + token + "Accept: " + ndjsonType + "\r\n\r\n"},
	}
	n, coming := min(slowClients, mostFiles()), 3*d/4
	bystanders := []*bystander{
		{name: "refresh", call: v.refresh, perSecond: 50, promised: true},
		{name: "JWKS", call: v.openly(v.authn.url + "/.well-known/jwks.json"), perSecond: 50},
		{name: "get", call: v.withSeen(v.one(v.inmuebles.url)), perSecond: 50, promised: true},
		{name: "list", call: v.withSeen(v.ask(v.inmuebles.url + "/inmuebles?order=date.desc&limit=50")), perSecond: 25},
	}
	before := resident(v.inmuebles.process.PID())
	var cut, most atomic.Int64
	err := beside(ctx, 2, d/2, coming, d, bystanders, func(ctx context.Context) error {
		var crowd sync.WaitGroup
		for i := range n {
			crowd.Go(func() {
				way := ways[i%len(ways)]
				wait(ctx, coming*time.Duration(i)/time.Duration(n))
				for ctx.Err() == nil {
					way.once(ctx)
					if ctx.Err() == nil {
						cut.Add(1)
					}
					wait(ctx, time.Second)
				}
			})
		}
		for ctx.Err() == nil {
			most.Store(max(most.Load(), resident(v.inmuebles.process.PID())))
			wait(ctx, 100*time.Millisecond)
		}
		crowd.Wait()
		return nil
	})
	if err != nil {
		return err
	}
	if cut.Load() == 0 {
		return errors.New("no slow client was cut off")
	}
	r.beside(fmt.Sprintf("with %d slow clients", n), bystanders)
	r.found("slow clients that were cut off", float64(cut.Load()), 0, "")
	r.found("inmuebles' memory with slow clients, the most seen", float64(most.Load())/1e6, float64(before)/1e6, "MB")
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// once is one connection, until it is cut off or ctx ends.
func (s *slowly) once(ctx context.Context) {
	u, err := url.Parse(s.service.url)
	if err != nil {
		return
	}
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	if s.drip == "" {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(4 << 10) // less of the answer lies in the kernel
		}
	}
	if _, err := io.WriteString(conn, s.at); err != nil {
		return
	}
	gone := make(chan struct{})
	if s.drip != "" { // whatever is answered, it has ended
		go func() {
			defer close(gone)
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
	text, one := strings.Repeat(s.drip, 1+100/(1+len(s.drip))), make([]byte, 1)
	for i := 0; ; i++ {
		if s.drip == "" {
			_, err = conn.Read(one)
		} else {
			_, err = io.WriteString(conn, text[i%len(text):][:1])
		}
		if err != nil {
			return
		}
		select {
		case <-gone:
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}
