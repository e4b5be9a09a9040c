package web

import (
	"container/list"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// connectionMemory is what a connection is reckoned at: one that lies idle
	// takes half of it (`make load` shows how much).
	connectionMemory = 64 << 10

	// reservedFiles are file handles that clients can't take: the databases',
	// files', the listeners'.
	reservedFiles = 256
)

// mostConnections is how many connections one service may have: what a quarter
// of the memory allows, and the file handles. (Go raises the soft limit of
// these to the hard one when a process starts.)
func mostConnections() int {
	most := MemoryLimit() / 4 / connectionMemory
	if n := fileLimit(); n > 0 {
		most = min(most, max(n/2, n-reservedFiles))
	}
	return int(max(most, 16))
}

// MemoryLimit is what this process may use, in bytes: the least of what the
// runtime was told, the container allows and the machine has.
func MemoryLimit() int64 {
	limit := debug.SetMemoryLimit(-1) // only reads it
	// Of cgroup 2 and 1.
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, _ := os.ReadFile(path)
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil { // or "max"
			limit = min(limit, n)
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err == nil {
			limit = min(limit, kib<<10)
		}
	}
	return limit
}

// connections keeps the number of connections at its bound. For one more, the
// one is closed that has waited longest for its client: for a header, or for
// another request. So idle connections, and headers that come a byte at a time,
// never keep anybody out, and a request that is being answered is never cut
// off; where all of them are, the new one is closed.
type connections struct {
	most int
	open prometheus.Gauge
	shed prometheus.Counter

	mu      sync.Mutex                 // guards what follows
	waiting list.List                  // of net.Conn, the longest first
	at      map[net.Conn]*list.Element // all that are open; nil for one with a request under way
}

func newConnections(most int, reg prometheus.Registerer, service string) *connections {
	labels := prometheus.Labels{"service": service}
	c := &connections{
		most: most, at: map[net.Conn]*list.Element{},
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "urbandata_http_connections", Help: "Connections that are open, idle ones among them.", ConstLabels: labels,
		}),
		shed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "urbandata_http_connections_shed_total", Help: "Connections that waited for their client and were closed to let others in.", ConstLabels: labels,
		}),
	}
	if reg != nil {
		reg.MustRegister(c.open, c.shed)
	}
	return c
}

// state is the server's ConnState hook.
func (c *connections) state(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, known := c.at[conn]
	if !known && state != http.StateNew {
		return // it was shed
	}
	if e != nil {
		c.waiting.Remove(e)
	}
	switch state {
	case http.StateNew, http.StateIdle:
		c.at[conn] = c.waiting.PushBack(conn)
	case http.StateActive:
		c.at[conn] = nil
	case http.StateClosed, http.StateHijacked:
		delete(c.at, conn)
	}
	if len(c.at) > c.most {
		longest := c.waiting.Remove(c.waiting.Front()).(net.Conn) //nolint:forcetypeassert // the new one is there at least
		delete(c.at, longest)
		c.shed.Inc()
		_ = longest.Close() // its goroutine sees that, and ends
	}
	c.open.Set(float64(len(c.at)))
}
