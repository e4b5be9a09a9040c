package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/urbandata/urbandata/pkg/verify/pace"
)

const maxRedirects = 3

// nameHeader tells the issuer which verifier asks.
const nameHeader = "Urbandata-Verifier"

// fetcher asks for the key set once. It holds no state.
type fetcher struct {
	url     string
	name    string
	client  *http.Client
	timeout time.Duration
	limit   int64
}

func newFetcher(o Options) *fetcher {
	client := http.Client{Transport: newTransport()}
	if o.HTTPClient != nil {
		client = *o.HTTPClient
	}
	client.CheckRedirect = sameOrigin
	client.Jar = nil
	return &fetcher{
		url: o.JWKSURL, name: o.Name, client: &client, timeout: o.Cache.FetchTimeout, limit: o.Cache.MaxKeySetBytes,
	}
}

// newTransport is one of our own, because the shared default may have been
// changed by anyone in the process.
func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           2,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    DefaultFetchTimeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// sameOrigin follows a redirect only within scheme, host and port of the
// address configured. Elsewhere it would hand the choice of keys to whoever
// can make the issuer redirect.
func sameOrigin(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errors.New("too many redirects")
	}
	if origin(req.URL) != origin(via[0].URL) || req.URL.User != nil {
		return errors.New("redirect to another origin")
	}
	return nil
}

func origin(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	case u.Scheme == "http":
		port = "80"
	}
	return strings.ToLower(u.Scheme + "://" + u.Hostname() + ":" + port)
}

// answer is what one fetch brought.
type answer struct {
	status  int
	set     *KeySet // nil for 304
	doc     []byte  // that it was read from
	etag    string
	promise pace.Promise
	wait    time.Duration // that the issuer asks for before the next attempt
}

// fetch asks for the set, or whether etag still names it; etag may be empty.
// An answer that is not a usable set is an error: [ErrFetch], or [ErrKeySet].
func (f *fetcher) fetch(ctx context.Context, etag string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, http.NoBody)
	if err != nil {
		return answer{}, wrap(ErrFetch, err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json;q=0.9")
	req.Header.Set("User-Agent", "urbandata-verify/1")
	if f.name != "" {
		req.Header.Set(nameHeader, f.name)
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return answer{}, wrap(ErrFetch, err)
	}
	defer func() { _ = resp.Body.Close() }()
	got := answer{status: resp.StatusCode, promise: freshness(resp.Header), etag: resp.Header.Get("ETag")}
	switch {
	case resp.StatusCode == http.StatusNotModified && etag != "":
		got.etag = etag
		return got, nil
	case resp.StatusCode != http.StatusOK:
		// Dates are left to those who trust the clocks of both sides.
		got.wait = min(deltaSeconds(strings.TrimSpace(resp.Header.Get("Retry-After"))), pace.MaxPatience)
		return got, fmt.Errorf("%w: status %d", ErrFetch, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, f.limit+1))
	if err != nil {
		return got, wrap(ErrFetch, err)
	}
	if int64(len(body)) > f.limit {
		return got, fmt.Errorf("%w: longer than %d bytes", ErrKeySet, f.limit)
	}
	if got.set, err = ParseKeySet(body); err != nil {
		return got, err
	}
	got.doc = body
	return got, nil
}

// freshness reads for how long an answer says it is fresh from now on: max-age
// less the Age it already has (RFC 9111 §4.2); not at all under no-store or
// no-cache. s-maxage is for shared caches, and Expires is left to HTTP/1.0.
func freshness(h http.Header) (p pace.Promise) {
	stored := strings.TrimSpace(h.Get("Age"))
	age := deltaSeconds(stored)
	for rest := strings.Join(h.Values("Cache-Control"), ","); rest != ""; {
		var name, value string
		name, value, rest = directive(rest)
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return pace.Promise{Said: true}
		case "max-age":
			// Of two, the shorter: a contradiction keeps no set longer.
			left := max(0, deltaSeconds(value)-age)
			if !p.Said || left < p.Left {
				p = pace.Promise{Said: true, Left: left, Copy: age > 0 || stored == "0"}
			}
		}
	}
	return p
}

// directive cuts the first directive off a Cache-Control value. A quoted
// value may hold commas.
func directive(s string) (name, value, rest string) {
	end, quoted := 0, false
	for ; end < len(s) && (quoted || s[end] != ','); end++ {
		switch {
		case s[end] == '"':
			quoted = !quoted
		case s[end] == '\\' && quoted && end+1 < len(s):
			end++
		}
	}
	if end < len(s) {
		rest = s[end+1:]
	}
	name, value, _ = strings.Cut(s[:end], "=")
	return strings.TrimSpace(name), strings.Trim(strings.TrimSpace(value), `"`), rest
}

// maxDelta is what a number of seconds too large to mean anything counts as
// (RFC 9111 §1.2.2).
const maxDelta = 1 << 31

// deltaSeconds reads a count of seconds. What is none counts as 0: a broken
// max-age then leads to a fetch too many, never to a set kept too long.
func deltaSeconds(s string) time.Duration {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0
		}
		n = min(n*10+int(c-'0'), maxDelta)
	}
	return time.Duration(n) * time.Second
}
