package verify

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify/pace"
)

const (
	// maxQuiet is how long a stream may say nothing: an issuer that has no
	// news says so every few seconds.
	maxQuiet = 10 * time.Second

	// pollEvery is how often the list is fetched while there is no stream, a
	// third of it random.
	pollEvery = time.Second

	// lastList is the longest wait for the list of an issuer that can't be
	// reached. It is short: tokens are refused while nothing is heard.
	lastList = 10 * time.Second

	// A stream that fails is tried again after firstStream, doubling up to
	// lastStream, and at once when the issuer is back after an outage.
	firstStream = time.Second
	lastStream  = time.Minute

	// absentEvery is how often an issuer without a list is asked for one.
	absentEvery = time.Minute

	// endBytes is what an entry may take on its way. Ours take 93.
	endBytes = 160

	// maxTokenLife is the longest life of a token that the issuer can have the
	// default of MaxSilence go by.
	maxTokenLife = 24 * time.Hour
)

// follower keeps the table of what has ended up to date. All of it but the
// table, silent and what mu guards belongs to the goroutine in run.
type follower struct {
	options RevocationOptions
	limit   int // of a statement on its way, in bytes
	client  *http.Client
	timeout time.Duration
	leeway  time.Duration
	name    string
	trust   *trust
	now     func() time.Time
	log     *slog.Logger
	hook    func(Following)

	ends   *endTable
	silent atomic.Int64  // when tokens are refused if no word comes, in Unix nanoseconds; 0: never
	first  chan struct{} // closed when the first attempt has come to an end

	held    bool          // there was a list
	seq     int64         // the place up to which the table goes
	life    time.Duration // of a token, as the issuer says
	etag    string        // of the list fetched last
	listSeq int64         // its place
	listExp time.Time     // its exp
	swept   time.Time

	refusing bool       // the log has been told
	mu       sync.Mutex // guards what follows
	stats    RevocationStats
	last     error     // of the last attempt; nil when it was good
	heard    time.Time // when the last word came
}

func newFollower(t *trust) *follower {
	o := t.options
	f := &follower{
		options: o.Revocations, limit: 64<<10 + o.Revocations.MaxEntries*endBytes,
		timeout: o.Cache.FetchTimeout, leeway: o.Leeway, name: o.Name, trust: t, now: o.Now, log: o.Logger, hook: o.Hooks.Followed,
		ends: newEndTable(), first: make(chan struct{}), life: DefaultMaxSilence,
	}
	fetches := newFetcher(o)
	client := *fetches.client
	client.Timeout = 0 // a stream has no end; each wait has its own
	f.client = &client
	f.heard = o.Now()
	f.extend(f.heard)
	return f
}

// check says what is wrong with a token whose claims are good otherwise.
func (f *follower) check(p *payload, now time.Time) error {
	if f == nil {
		return nil
	}
	if f.ends.ended(p, now) {
		return ErrRevoked
	}
	if silent := f.silent.Load(); silent != 0 && now.UnixNano() >= silent {
		return ErrRevocationsUnavailable
	}
	return nil
}

// ready is nil unless tokens are refused for want of word from the issuer.
func (f *follower) ready() error {
	if f == nil {
		return nil
	}
	if silent := f.silent.Load(); silent == 0 || f.now().UnixNano() < silent {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Errorf("%w: no word since %s: %w", ErrRevocationsUnavailable, f.heard.UTC().Format(time.RFC3339), orUnknown(f.last))
}

// extend lets tokens be verified for as long as the policy says without word.
func (f *follower) extend(now time.Time) {
	silence := f.options.MaxSilence
	if silence == 0 {
		silence = max(f.life, 3*maxQuiet)
	}
	if silence < 0 {
		f.silent.Store(0)
		return
	}
	f.silent.Store(now.Add(silence).UnixNano())
}

// run follows until ctx ends: by the stream, and by fetching the list while
// there is none.
func (f *follower) run(ctx context.Context) {
	select {
	case <-f.trust.cache.first: // nothing can be verified before
	case <-ctx.Done():
		return
	}
	var p pursuit
	for ctx.Err() == nil {
		wait := f.attempt(ctx, &p)
		if ctx.Err() != nil {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// pursuit is where run stands.
type pursuit struct {
	streamAt time.Time // when the stream is worth a try
	noStream int       // times in a row that it brought nothing
	failures int       // lists in a row that could not be had
}

// attempt streams for as long as that goes, and fetches the list if it brought
// nothing or left a gap. It returns how long to wait before the next.
func (f *follower) attempt(ctx context.Context, p *pursuit) time.Duration {
	soon := jitter(pace.FirstRetry)          // all verifiers lose a replica in the same moment
	perhaps := f.options.Optional && !f.held // the list shows whether there is anything to follow
	if now := time.Now(); !perhaps && !now.Before(p.streamAt) {
		words, err := f.stream(ctx)
		if ctx.Err() != nil {
			return 0
		}
		f.failed(err)
		if words > 0 {
			p.noStream, p.failures = 0, 0
		} else {
			p.noStream++
			d := min(firstStream<<min(p.noStream-1, 10), lastStream)
			p.streamAt = now.Add(d/2 + jitter(d/2))
		}
		if words > 0 && !errors.Is(err, errGap) {
			return soon
		}
	}
	err := f.fetch(ctx)
	if ctx.Err() != nil {
		return 0
	}
	f.tried()
	switch {
	case errors.Is(err, errAbsent):
		return absentEvery - jitter(absentEvery/3)
	case err != nil:
		f.lost(err)
		p.failures++
		return pace.Again(p.failures, lastList, 0, jitter)
	case p.failures > 0, p.noStream == 0: // it is back, or there was a gap, or this was the first
		p.failures, p.streamAt = 0, time.Time{}
		return soon
	}
	return pollEvery - jitter(pollEvery/3)
}

// tried notes that an attempt has come to an end.
func (f *follower) tried() {
	select {
	case <-f.first:
	default:
		close(f.first)
	}
}

var (
	errGap    = errors.New("it follows upon a place that is not held")
	errOld    = errors.New("it is older than what is held")
	errAbsent = errors.New("the issuer has no list of revocations")
)

// fetch gets the whole list.
func (f *follower) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	req, err := f.request(ctx, f.options.URL, "application/jwt")
	if err != nil {
		return err
	}
	if f.held && f.listSeq == f.seq && f.etag != "" {
		req.Header.Set("If-None-Match", f.etag)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return wrap(ErrFetch, err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusNotModified && req.Header.Get("If-None-Match") != "":
		// Nobody has signed that. It is good for as long as the list itself.
		if !f.now().Before(f.listExp.Add(f.leeway)) {
			return fmt.Errorf("%w: it has expired, and is said to be the present one", ErrRevocations)
		}
		f.word(nil, false)
		return nil
	case f.options.Optional && !f.held && isAbsent(resp):
		f.absent()
		return errAbsent
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%w: status %d", ErrFetch, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(f.limit)+1))
	if err != nil {
		return wrap(ErrFetch, err)
	}
	if len(body) > f.limit {
		return fmt.Errorf("%w: longer than %d bytes", ErrRevocations, f.limit)
	}
	st, err := f.read(ctx, strings.TrimSpace(string(body)))
	if err != nil {
		return err
	}
	if st.follows {
		return fmt.Errorf("%w: it is not the whole list", ErrRevocations)
	}
	if err := f.take(st, false); err != nil {
		return err
	}
	f.etag, f.listSeq, f.listExp = resp.Header.Get("ETag"), st.seq, time.Unix(st.expiry, 0)
	return nil
}

// isAbsent says whether this is the answer of an issuer that has no list: some
// say so with a page, or that one may not ask.
func isAbsent(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusOK:
		return !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/jwt")
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound,
		http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusGone:
		return true
	}
	return false
}

func (f *follower) request(ctx context.Context, url, accept string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, wrap(ErrFetch, err)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "urbandata-verify/1")
	if f.name != "" {
		req.Header.Set(nameHeader, f.name)
	}
	return req, nil
}

// stream follows the stream to its end, and returns how many statements it
// brought.
func (f *follower) stream(ctx context.Context) (words int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Whatever the stream does, a statement must come within maxQuiet.
	quiet := time.AfterFunc(maxQuiet, func() { cancel(errors.New("silence")) })
	defer quiet.Stop()
	defer f.streaming(false)

	req, err := f.request(ctx, f.options.URL+"/stream", "text/event-stream")
	if err != nil {
		return 0, err
	}
	if f.held {
		req.Header.Set("Last-Event-ID", strconv.FormatInt(f.seq, 10))
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return 0, f.because(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%w: status %d for the stream", ErrFetch, resp.StatusCode)
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return 0, fmt.Errorf("%w: the stream is none", ErrFetch)
	}
	events := eventReader{r: bufio.NewReader(resp.Body), limit: f.limit}
	for {
		data, err := events.next()
		if err != nil {
			return words, f.because(ctx, err)
		}
		st, err := f.read(ctx, data)
		if err != nil {
			return words, err
		}
		if err := f.take(st, true); err != nil {
			return words, err
		}
		words++
		quiet.Reset(maxQuiet)
		f.streaming(true)
		f.tried()
	}
}

// because is why a stream ended.
func (f *follower) because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, ErrRevocations) {
		return err
	}
	return wrap(ErrFetch, err)
}

// read verifies a statement as strictly as a token.
func (f *follower) read(ctx context.Context, raw string) (*statement, error) {
	st, err := f.trust.statement(ctx, raw, f.options.MaxEntries)
	switch {
	case err == nil, errors.Is(err, ErrRevocations):
		return st, err
	}
	return nil, wrap(ErrRevocations, err)
}

// statement checks that raw is the issuer's word on what has ended, here and
// now. The order is that of a token's checklist.
func (t *trust) statement(ctx context.Context, raw string, limit int) (*statement, error) {
	parts, err := split(raw)
	if err != nil {
		return nil, err
	}
	// Each key decides its algorithm, so the allow-list for tokens, which may
	// be for the sake of one audience, doesn't matter here.
	k, _, err := t.keyFor(ctx, parts.header, revocationTypes, Algorithms())
	if err != nil {
		return nil, err
	}
	if !k.public.verify(parts.signed, parts.signature) {
		return nil, ErrSignature
	}
	st, err := parseStatement(parts.payload, limit)
	if err != nil {
		return nil, err
	}
	now, leeway := t.options.Now(), t.options.Leeway
	switch {
	case st.issuer != t.options.Issuer:
		return nil, ErrIssuer
	case !now.Before(time.Unix(st.expiry, 0).Add(leeway)):
		return nil, ErrExpired
	case time.Unix(st.issuedAt, 0).After(now.Add(leeway)):
		return nil, ErrNotYetValid
	}
	return st, nil
}

var revocationTypes = []string{token.TypeRevocations}

// take brings the table to where a statement is. The sequence never goes back,
// unless nothing that is held is of use any more: then it may be that of an
// issuer whose database came from a backup.
func (f *follower) take(st *statement, streaming bool) error {
	now := f.now()
	if f.held && st.seq < f.seq {
		if f.ends.sweep(now); st.follows || f.ends.size() > 0 {
			return fmt.Errorf("%w: %w: %d, and %d is", ErrRevocations, errOld, st.seq, f.seq)
		}
	}
	if st.follows && (!f.held || st.after > f.seq) {
		f.mu.Lock()
		f.stats.Gaps++
		f.mu.Unlock()
		return fmt.Errorf("%w: %w: %d, and %d is", ErrRevocations, errGap, st.after, f.seq)
	}
	for i := range st.ends {
		st.ends[i].until += int64((f.leeway + time.Second - 1) / time.Second)
	}
	if st.follows {
		if f.ends.size()+len(st.ends) > f.options.MaxEntries {
			if f.ends.sweep(now); f.ends.size()+len(st.ends) > f.options.MaxEntries {
				return wrap(ErrRevocations, errTooMany)
			}
		}
		f.ends.add(st.ends, now)
	} else {
		f.ends.replace(st.ends, now)
	}
	f.held, f.seq = true, st.seq
	if st.tokenLife > 0 {
		f.life = min(time.Duration(min(st.tokenLife, maxDelta))*time.Second, maxTokenLife)
	}
	if now.Sub(f.swept) >= absentEvery {
		f.ends.sweep(now)
		f.swept = now
	}
	f.word(st, streaming)
	return nil
}

// word notes that the issuer has said where it is.
func (f *follower) word(st *statement, streaming bool) {
	now := f.now()
	f.extend(now)
	f.mu.Lock()
	lost := f.last
	f.last, f.heard = nil, now
	f.stats.Absent = false
	f.stats.Sequence = f.seq
	f.stats.Words++
	f.mu.Unlock()
	f.refusing = false
	if lost != nil {
		f.log.Info("revocations are followed again", "url", f.options.URL, "sequence", f.seq)
	}
	if f.hook != nil {
		n := Following{Streaming: streaming, Sequence: f.seq, Entries: f.ends.size()}
		if st != nil {
			n.New = len(st.ends)
		}
		f.hook(n)
	}
}

// failed notes that an attempt has failed.
func (f *follower) failed(err error) {
	f.mu.Lock()
	f.stats.Failures++
	f.mu.Unlock()
	f.log.Debug("revocations: an attempt has failed", "url", f.options.URL, "error", err.Error())
	if f.hook != nil {
		f.hook(Following{Sequence: f.seq, Entries: f.ends.size(), Err: err})
	}
}

// lost notes that not even the list can be had.
func (f *follower) lost(err error) {
	f.failed(err)
	f.mu.Lock()
	known := f.last != nil
	f.last = err
	f.mu.Unlock()
	switch refusing := f.ready() != nil; {
	case refusing && !f.refusing:
		f.log.Error("tokens are refused, because their issuer has not said for too long which have ended", "url", f.options.URL, "error", err.Error())
		f.refusing = true
	case !known:
		f.log.Warn("revocations can't be followed", "url", f.options.URL, "error", err.Error())
	}
}

// absent notes that the issuer has no list. That is no failure if the operator
// has said so beforehand.
func (f *follower) absent() {
	f.silent.Store(0)
	f.mu.Lock()
	known := f.stats.Absent
	f.stats.Absent, f.last = true, nil
	f.mu.Unlock()
	if !known {
		f.log.Warn("the issuer publishes no revocations: tokens are good until they expire", "url", f.options.URL)
	}
}

func (f *follower) streaming(on bool) {
	f.mu.Lock()
	f.stats.Streaming = on
	f.mu.Unlock()
}

// snapshotStats is the present state.
func (f *follower) snapshotStats() RevocationStats {
	if f == nil {
		return RevocationStats{}
	}
	f.mu.Lock()
	s := f.stats
	s.Age = max(0, f.now().Sub(f.heard))
	f.mu.Unlock()
	s.Followed = true
	s.Entries = f.ends.size()
	s.Usable = f.ready() == nil
	return s
}

// RevocationStats is how a verifier stands with the issuer's revocations.
type RevocationStats struct {
	Followed  bool          // Options.Revocations has a URL; else all is zero
	Absent    bool          // the issuer has none
	Streaming bool          // news come as they happen
	Usable    bool          // tokens are verified: there was word within MaxSilence
	Sequence  int64         // the place up to which the list is held
	Entries   int           // what is held
	Age       time.Duration // since the last word, or since New

	Words    uint64 // statements taken: lists, news and heartbeats
	Failures uint64 // attempts that ended in an error, ends of streams among them
	Gaps     uint64 // news that followed upon what was not held
}

func (s *RevocationStats) add(o RevocationStats) {
	if !o.Followed {
		return
	}
	if !s.Followed {
		*s = o
		return
	}
	s.Absent = s.Absent || o.Absent
	s.Streaming = s.Streaming && o.Streaming
	s.Usable = s.Usable && o.Usable
	s.Sequence = min(s.Sequence, o.Sequence)
	s.Entries += o.Entries
	s.Age = max(s.Age, o.Age)
	s.Words += o.Words
	s.Failures += o.Failures
	s.Gaps += o.Gaps
}

// eventReader reads a stream of events (WHATWG HTML §9.2.6), as much of it as
// an issuer needs: it takes the data of unnamed events.
type eventReader struct {
	r     *bufio.Reader
	limit int // bytes of an event
}

// next returns the data of the next event.
func (e *eventReader) next() (string, error) {
	var data []byte
	has, named := false, false
	for left := e.limit; ; {
		line, err := e.line(&left)
		if err != nil {
			return "", err
		}
		if len(line) == 0 {
			if has && !named {
				return string(data), nil
			}
			data, has, named, left = nil, false, false, e.limit
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "data":
			if has {
				data = append(data, '\n')
			}
			data, has = append(data, value...), true
		case "event":
			named = len(value) > 0 && string(value) != "message"
		}
	}
}

// line reads a line, and takes its length from what is left.
func (e *eventReader) line(left *int) ([]byte, error) {
	var all []byte
	for {
		part, err := e.r.ReadSlice('\n')
		if *left -= len(part); *left < 0 {
			return nil, fmt.Errorf("%w: an event is longer than %d bytes", ErrRevocations, e.limit)
		}
		if err == nil && all == nil {
			return bytes.TrimRight(part, "\r\n"), nil
		}
		all = append(all, part...)
		if err == nil {
			return bytes.TrimRight(all, "\r\n"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}
