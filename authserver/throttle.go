package authserver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urbandata/urbandata/pkg/web"
)

// Throttling. What counts is kept in the database, which replicas share; it is
// read before a password is looked at, and written only when one was wrong.
// The refresh path doesn't even read: a replica that stores one failure too
// many remembers the network itself.
//
// Nobody can lock an owner out: failures from elsewhere don't count for a
// network that the account has been used from, nor for a device that shows a
// refresh token of the account, even one that gives nothing any more. Those
// have a count of their own. Counts are kept for addresses that nobody has,
// too, or they would tell.
//
// Requests at the same moment are all let in before the first has failed. The
// queue of the hasher bounds how many that are.

const (
	firstDelay = time.Second
	maxDelay   = 15 * time.Minute
)

// ThrottledError says that something was tried too often.
type ThrottledError struct {
	Limit string // its name
	After time.Duration
}

// Error names the limit, and not whom it is about.
func (e *ThrottledError) Error() string {
	return fmt.Sprintf("authserver: %s: again in %s", e.Limit, e.After)
}

// counter is one count: a limit, and whom it is about.
type counter struct {
	name   string
	limit  Limit
	delays bool
	key    string
	row    throttleRow // as it was read
}

// throttleRow is a stored count.
type throttleRow struct {
	Key       string `db:"key"`
	Count     int    `db:"count"`
	LastAt    int64  `db:"last_at"`
	ExpiresAt int64  `db:"expires_at"`
}

// newCounter makes the count of a limit for whom about names.
func newCounter(name string, limit Limit, delays bool, about ...string) *counter {
	sum := sha256.Sum256([]byte(name + "\x00" + strings.Join(about, "\x00")))
	return &counter{name: name, limit: limit, delays: delays, key: name + ":" + hex.EncodeToString(sum[:16])}
}

// byNetwork makes the count of a limit for the network that a request comes
// from, or one that is off where that isn't known: it would be everybody's.
func byNetwork(ctx context.Context, name string, limit Limit) *counter {
	network := peerOf(ctx).network()
	if network == "" {
		limit = Limit{}
	}
	return newCounter(name, limit, false, network)
}

// wait is how long a count refuses, from now on.
func (c *counter) wait(now time.Time) time.Duration {
	if c.row.ExpiresAt <= now.UnixMilli() || c.row.Count < c.limit.Max {
		return 0
	}
	until := time.UnixMilli(c.row.ExpiresAt)
	if c.delays {
		delay := maxDelay
		if over := c.row.Count - c.limit.Max; over < 20 { // 2^20 seconds are more than maxDelay
			delay = min(maxDelay, firstDelay<<over)
		}
		until = time.UnixMilli(c.row.LastAt).Add(delay)
	}
	return max(0, until.Sub(now))
}

// inForce are the counts of limits that aren't off.
func inForce(counters []*counter) (on []*counter) {
	for _, c := range counters {
		if c.limit.Max > 0 {
			on = append(on, c)
		}
	}
	return on
}

// throttle counts.
type throttle struct {
	Limits
	store *Store
	now   func() time.Time

	mu      sync.Mutex
	refused map[string]time.Time // guarded by mu: networks whose refreshes are refused, until when
}

func newThrottle(store *Store, limits Limits, now func() time.Time) *throttle {
	return &throttle{Limits: limits, store: store, now: now, refused: map[string]time.Time{}}
}

// check reads counts, and returns a [*ThrottledError] if one refuses. The last
// of them is what header fields tell about.
func (t *throttle) check(ctx context.Context, counters ...*counter) error {
	counters = inForce(counters)
	if len(counters) == 0 {
		return nil
	}
	if err := t.store.readCounts(ctx, counters); err != nil {
		return err
	}
	return t.judge(ctx, counters)
}

// judge is check for counts that have been read, of limits in force.
func (t *throttle) judge(ctx context.Context, counters []*counter) error {
	if len(counters) == 0 {
		return nil
	}
	now := t.now()
	var refused *ThrottledError
	told := counters[len(counters)-1]
	for _, c := range counters {
		if wait := c.wait(now); wait > 0 && (refused == nil || wait > refused.After) {
			refused, told = &ThrottledError{c.name, wait}, c
		}
	}
	limitStateOf(ctx).tell(told, now)
	if refused != nil {
		return refused
	}
	return nil
}

// count adds one to counts.
func (t *throttle) count(ctx context.Context, counters ...*counter) error {
	counters = inForce(counters)
	if len(counters) == 0 {
		return nil
	}
	now := t.now()
	if err := t.store.addCounts(ctx, counters, now); err != nil {
		return err
	}
	limitStateOf(ctx).tell(counters[len(counters)-1], now)
	return nil
}

// attempt is an attempt to show a password for an address.
type attempt struct {
	account, device, network *counter
	known                    bool // whether the device or network is known to the account's owner
}

// counters are the counts of an attempt, the one that is told last.
func (a *attempt) counters() []*counter {
	if a.known {
		return []*counter{a.network, a.device}
	}
	return []*counter{a.network, a.account, a.device}
}

// try lets somebody show a password for an address, or returns a
// [*ThrottledError]. With the counts it reads who has the address, or another
// user if nobody has it, or one without an address if there is none: a login
// so asks the database once before it hashes.
func (t *throttle) try(ctx context.Context, emailKey string, from peer) (*userRow, *attempt, error) {
	network := from.network()
	device := func(name string) *counter { return newCounter("login_device", t.LoginDevice, true, emailKey, name) }
	a := &attempt{
		network: byNetwork(ctx, "login_network", t.LoginNetwork),
		account: newCounter("login_account", t.LoginAccount, true, emailKey),
		device:  device(network),
	}
	session, err := t.store.shownSession(ctx, emailKey, from.Refresh)
	if err != nil {
		return nil, nil, err
	}
	known := device(cmp.Or(session, "network "+network))
	found, err := t.store.forLogin(ctx, emailKey, network, [...]*counter{a.network, a.account, a.device, known})
	if errors.Is(err, ErrNoUser) {
		found, err = &candidate{Counted: true}, nil // perhaps
	}
	if err != nil {
		return nil, nil, err
	}
	if session != "" || found.Known && found.EmailKey == emailKey {
		a.known, a.device = true, known
	}
	if found.Counted {
		return &found.userRow, a, t.check(ctx, a.counters()...)
	}
	return &found.userRow, a, t.judge(ctx, inForce(a.counters()))
}

// failed counts an attempt whose password was wrong, and returns why it was
// refused. If it can't be counted, it returns that: a guess that doesn't count
// gets no answer.
func (t *throttle) failed(ctx context.Context, a *attempt, why error) error {
	if err := t.count(ctx, a.counters()...); err != nil {
		return err
	}
	return why
}

// passed forgets what the device did wrong before. Nothing is written when
// that was nothing. What strangers did isn't forgotten: else the owner's next
// login would give them new tries.
func (t *throttle) passed(ctx context.Context, a *attempt) error {
	if a.device.row.Count == 0 {
		return nil
	}
	return t.store.dropCount(ctx, a.device.key)
}

// forget forgets all failures at an address, whoever's: its owner has shown
// to read its mail.
func (t *throttle) forget(ctx context.Context, emailKey string) error {
	return t.store.dropCount(ctx, newCounter("login_account", t.LoginAccount, true, emailKey).key)
}

// once counts what is counted whether it succeeds or not, or returns a
// [*ThrottledError].
func (t *throttle) once(ctx context.Context, counters ...*counter) error {
	if err := t.check(ctx, counters...); err != nil {
		return err
	}
	return t.count(ctx, counters...)
}

// register counts a registration.
func (t *throttle) register(ctx context.Context) error {
	return t.once(ctx, byNetwork(ctx, "register_network", t.RegisterNetwork))
}

// reset counts a request for mail to an address, or for a user.
func (t *throttle) reset(ctx context.Context, about string) error {
	return t.once(ctx, byNetwork(ctx, "reset_network", t.ResetNetwork),
		newCounter("reset_address", t.ResetAddress, false, about))
}

// token refuses a network that showed too many tokens that were no good. It
// asks no database.
func (t *throttle) token(ctx context.Context) error {
	network := peerOf(ctx).network()
	t.mu.Lock()
	defer t.mu.Unlock()
	until, ok := t.refused[network]
	if !ok {
		return nil
	}
	if wait := until.Sub(t.now()); wait > 0 {
		return &ThrottledError{"token_network", wait}
	}
	delete(t.refused, network)
	return nil
}

// badToken counts a token that was no good, and returns why, or that it can't
// be counted.
func (t *throttle) badToken(ctx context.Context, why error) error {
	network := peerOf(ctx).network()
	c := byNetwork(ctx, "token_network", t.TokenNetwork)
	if err := t.count(ctx, c); err != nil {
		return err
	}
	if wait := c.wait(t.now()); wait > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.refused[network] = t.now().Add(wait)
	}
	return why
}

// sweep forgets networks that are refused no more.
func (t *throttle) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for network, until := range t.refused {
		if !until.After(t.now()) {
			delete(t.refused, network)
		}
	}
}

// limitState carries to a request's answer what its RateLimit fields say
// (draft-ietf-httpapi-ratelimit-headers).
type limitState struct {
	set           func(name, value string)
	policy, state string
}

type limitStateKey struct{}

func limitStateOf(ctx context.Context) *limitState {
	s, _ := ctx.Value(limitStateKey{}).(*limitState)
	return s
}

func (s *limitState) tell(c *counter, now time.Time) {
	if s == nil { // no request: the command line
		return
	}
	remaining, reset := c.limit.Max, c.limit.Window
	if left := time.UnixMilli(c.row.ExpiresAt).Sub(now); left > 0 {
		remaining, reset = max(0, c.limit.Max-c.row.Count), left
	}
	if wait := c.wait(now); wait > 0 {
		reset = wait
	}
	s.policy = fmt.Sprintf("%q;q=%d;w=%d", c.name, c.limit.Max, int(c.limit.Window/time.Second))
	s.state = fmt.Sprintf("%q;r=%d;t=%d", c.name, remaining, seconds(reset))
}

// send sets the fields.
func (s *limitState) send() {
	if s != nil && s.state != "" {
		s.set("RateLimit-Policy", s.policy)
		s.set("RateLimit", s.state)
	}
}

// seconds rounds up.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

const tooOften = "This was tried too often. Wait for the seconds in Retry-After."

// throttledProblem is the answer to a [*ThrottledError], or nil.
func throttledProblem(err error) *web.Problem {
	var t *ThrottledError
	if !errors.As(err, &t) {
		return nil
	}
	p := web.NewProblem(http.StatusTooManyRequests, "too_many_requests", tooOften).
		With("Retry-After", strconv.Itoa(seconds(t.After)))
	p.OAuthError = "temporarily_unavailable"
	return p
}
