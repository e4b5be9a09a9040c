package web

import (
	"context"
	"net/http"
	"sync"
	"time"
)

const (
	livePath  = "/livez"
	readyPath = "/readyz"
)

// Check is one thing that a service needs to be of use. The function answers
// quickly, or when ctx ends.
type Check struct {
	Name string
	Func func(ctx context.Context) error
}

// checkTimeout bounds each check, so that a hanging database makes /readyz
// say no instead of hanging too.
const checkTimeout = 2 * time.Second

// Health answers /livez (the process runs) and /readyz (it is of use: every
// check passes and it isn't draining).
type Health struct {
	checks   []Check
	drain    sync.Once
	draining chan struct{} // closed when it begins
}

// NewHealth makes a Health that asks these checks.
func NewHealth(checks ...Check) *Health {
	return &Health{checks: checks, draining: make(chan struct{})}
}

// Drain makes /readyz say 503 from now on, so that a load balancer sends
// nothing new.
func (h *Health) Drain() { h.drain.Do(func() { close(h.draining) }) }

// Draining is closed when the service is about to stop. An answer without an
// end watches it: else it would hold the service up.
func (h *Health) Draining() <-chan struct{} { return h.draining }

type healthAnswer struct {
	Status string            `json:"status"`
	Checks map[string]string `json:"checks,omitempty"`
}

// Register puts /livez and /readyz on the API. They are not in its OpenAPI
// document: they are for the platform, not for clients.
func (h *Health) Register(a *API) {
	a.Public(http.MethodGet, livePath, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, healthAnswer{Status: "ok"})
	}))
	a.Public(http.MethodGet, readyPath, http.HandlerFunc(h.ready))
}

func (h *Health) ready(w http.ResponseWriter, r *http.Request) {
	select {
	case <-h.draining:
		writeJSON(w, http.StatusServiceUnavailable, healthAnswer{Status: "draining"})
		return
	default:
	}
	status, answer := http.StatusOK, healthAnswer{Status: "ok", Checks: map[string]string{}}
	for _, c := range h.checks {
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		err := c.Func(ctx)
		cancel()
		if err != nil {
			NoteCause(r.Context(), err)
			status, answer.Status, answer.Checks[c.Name] = http.StatusServiceUnavailable, "failing", "failing"
			continue
		}
		answer.Checks[c.Name] = "ok"
	}
	writeJSON(w, status, answer)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := marshal(v)
	if err != nil { // only our own plain structs come here
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have left; there is nobody to tell
}
