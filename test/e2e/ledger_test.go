package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
)

// ledger keeps what a test's logs are checked against when its processes have
// ended.
type ledger struct {
	t *testing.T

	mu        sync.Mutex // guards what follows
	processes []*process
	expected  []string          // messages of errors that the test brings about
	secrets   map[string]string // lower-case text that no log line may hold → what it is
	answers   map[string]int    // X-Request-Id → status
}

// newLedger must come before the first process: cleanups run backwards.
func newLedger(t *testing.T) *ledger {
	t.Helper()
	l := &ledger{t: t, secrets: map[string]string{
		"private key-----": "a private key in PEM",
		`"d":`:             "a private key as a JWK",
		`\"d\":`:           "a private key as a JWK",
	}, answers: map[string]int{}}
	t.Cleanup(l.check)
	return l
}

func (l *ledger) watch(p *process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.processes = append(l.processes, p)
}

// secret says that no log line may hold the text, in any case. Of a JWT no
// payload and no signature may be there either, however it was cut.
func (l *ledger) secret(what, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(text) < 6 { // it would be found in anything
		l.t.Errorf("%s is too short to be looked for", what)
		return
	}
	if parts := strings.Split(text, "."); len(parts) == 3 && strings.HasPrefix(text, "eyJ") {
		l.secrets[strings.ToLower(parts[1])] = "the payload of " + what
		l.secrets[strings.ToLower(parts[2])] = "the signature of " + what
		return
	}
	l.secrets[strings.ToLower(text)] = what
}

// expect says that the test brings about errors of this message.
func (l *ledger) expect(message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expected = append(l.expected, message)
}

// answered notes a request that a process answered.
func (l *ledger) answered(id string, status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, again := l.answers[id]; again {
		l.t.Errorf("two answers have the request id %s", id)
	}
	l.answers[id] = status
}

// check reads all logs.
func (l *ledger) check() {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[string]int{}
	for _, p := range l.processes {
		for _, line := range p.lines() {
			var entry struct {
				Time, Level, Msg string
				ID               string `json:"request_id"`
				Status           int
			}
			if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Time == "" || entry.Level == "" || entry.Msg == "" {
				l.t.Errorf("%s logged what is not a JSON record: %s", p.name, line)
			}
			lower := strings.ToLower(line)
			for text, what := range l.secrets {
				if strings.Contains(lower, text) {
					l.t.Errorf("%s logged %s: %s", p.name, what, line)
				}
			}
			if entry.Level == "ERROR" && !slices.Contains(l.expected, entry.Msg) {
				l.t.Errorf("%s logged an error: %s", p.name, line)
			}
			if entry.Msg != "request" {
				continue
			}
			found[entry.ID]++
			if status, ok := l.answers[entry.ID]; ok && status != entry.Status {
				l.t.Errorf("%s logged status %d for an answer of %d: %s", p.name, entry.Status, status, line)
			}
		}
	}
	for id, status := range l.answers {
		if found[id] != 1 {
			l.t.Errorf("%d log lines for the request %s that was answered %d, want 1", found[id], id, status)
		}
	}
}
