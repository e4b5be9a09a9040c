// Package doctor looks at an issuer from outside, as a third party's verifier
// does: its metadata, its key set, how both are served, its clock and, when
// one is given, a token. It needs no database and no secret. What is wrong is
// said with the names of those who suffer, from the table of measured
// verifiers (docs/verify.md).
//
//	report := doctor.Examine(ctx, doctor.Options{Issuer: "https://id.example"})
//
// Everything that comes from the issuer is taken for hostile: bounded in size
// and time, and quoted when it is shown.
package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urbandata/urbandata/keys"
)

// Level is how bad a finding is.
type Level string

// The levels, the best first.
const (
	OK      Level = "ok"
	Note    Level = "note"    // worth knowing; harms nobody
	Warning Level = "warning" // harms nobody yet, or few
	Broken  Level = "broken"  // somebody refuses good tokens, or could take bad ones
)

var rank = map[Level]int{OK: 0, Note: 1, Warning: 2, Broken: 3}

// Finding is one thing that was looked at.
type Finding struct {
	Level   Level    `json:"level"`
	Check   string   `json:"check"` // what was looked at: metadata, jwks, cache, keys, clock, token
	Message string   `json:"message"`
	Who     []string `json:"who,omitempty"` // the verifiers that it hits
}

// Key is a member of the key set as far as it could be read.
type Key struct {
	KeyID     string `json:"kid"`
	Type      string `json:"kty"`
	Curve     string `json:"crv,omitempty"`
	Algorithm string `json:"alg"`
	Use       string `json:"use"`
}

// Report is what was found.
type Report struct {
	Issuer   string        `json:"issuer"`
	JWKSURL  string        `json:"jwks_url"`
	At       time.Time     `json:"at"`
	MaxAge   time.Duration `json:"-"`
	ETag     string        `json:"etag,omitempty"`
	Keys     []Key         `json:"keys"`
	Findings []Finding     `json:"findings"`
	Reached  bool          `json:"reached"` // a key set could be had
	Token    string        `json:"token,omitempty"`

	set []byte
}

// The values of Report.Token.
const (
	TokenGood = "verifies"
	TokenBad  = "does not verify"
)

// Worst is the worst level among the findings, those on the token aside.
func (r *Report) Worst() Level {
	worst := OK
	for _, f := range r.Findings {
		if f.Check != checkToken && rank[f.Level] > rank[worst] {
			worst = f.Level
		}
	}
	return worst
}

func (r *Report) add(level Level, check string, who []string, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{Level: level, Check: check, Message: fmt.Sprintf(format, args...), Who: who})
}

// The checks.
const (
	checkMetadata = "metadata"
	checkJWKS     = "jwks"
	checkCache    = "cache"
	checkKeys     = "keys"
	checkClock    = "clock"
	checkToken    = "token"
)

// Options say what to look at. Issuer is needed.
type Options struct {
	Issuer   string
	JWKSURL  string // the one of the metadata if empty
	Token    string // to be verified, if not empty
	Audience string // that a token must have; its own if empty
	Client   *http.Client
	Now      func() time.Time
}

const (
	timeout      = 10 * time.Second
	maxDocument  = 1 << 20
	maxRedirects = 3
)

// answer is a response, read to its end.
type answer struct {
	status    int
	header    http.Header
	body      []byte
	took      time.Duration
	at        time.Time // when it had come, by our clock
	redirects int
}

type examiner struct {
	Options
	report *Report
}

// Examine looks at everything once.
func Examine(ctx context.Context, o Options) *Report {
	if o.Client == nil {
		o.Client = &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}}
		defer o.Client.CloseIdleConnections()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	x := &examiner{Options: o, report: &Report{Issuer: o.Issuer, JWKSURL: o.JWKSURL, At: o.Now().UTC(), Keys: []Key{}, Findings: []Finding{}}}
	x.metadata(ctx)
	x.jwks(ctx)
	if x.report.Reached && o.Token != "" {
		x.token(ctx)
	}
	return x.report
}

// get fetches a document.
func (x *examiner) get(ctx context.Context, url string, fields map[string]string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", "urbandata-keys-doctor/1")
	for name, value := range fields {
		r.Header.Set(name, value)
	}
	a := &answer{}
	client := *x.Client
	client.Jar = nil
	client.CheckRedirect = func(_ *http.Request, via []*http.Request) error {
		a.redirects = len(via)
		if len(via) > maxRedirects {
			return errors.New("too many redirects")
		}
		return nil
	}
	began := time.Now()
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	a.body, err = io.ReadAll(io.LimitReader(response.Body, maxDocument+1))
	a.status, a.header, a.took, a.at = response.StatusCode, response.Header, time.Since(began), x.Now()
	if err == nil && len(a.body) > maxDocument {
		err = fmt.Errorf("it is longer than %d bytes", maxDocument)
	}
	return a, err
}

// metadata reads both documents, and finds the key set by them.
func (x *examiner) metadata(ctx context.Context) {
	u, err := url.Parse(x.Issuer)
	if err != nil {
		x.report.add(Broken, checkMetadata, nil, "the issuer is not a URL")
		return
	}
	switch {
	case strings.HasSuffix(x.Issuer, "/"):
		x.report.add(Warning, checkMetadata, nil, "the issuer ends with a slash: libraries that strip or add one compare it with iss byte by byte")
	case u.Scheme != "https" && !loopback(u.Hostname()):
		x.report.add(Broken, checkMetadata, nil, "the issuer is not https: whoever can write to the network between can replace the keys")
	}
	path := strings.TrimSuffix(u.Path, "/")
	origin := u.Scheme + "://" + u.Host
	documents := []struct{ name, url string }{
		{"openid-configuration", strings.TrimSuffix(x.Issuer, "/") + "/.well-known/openid-configuration"},
		{"oauth-authorization-server", origin + "/.well-known/oauth-authorization-server" + path},
	}
	found := map[string]string{} // document → jwks_uri
	for _, d := range documents {
		a, err := x.get(ctx, d.url, nil)
		if err != nil {
			x.report.add(Warning, checkMetadata, nil, "%s can't be had: %s", d.name, plain(err))
			continue
		}
		if a.status != http.StatusOK {
			x.report.add(Warning, checkMetadata, nil, "%s answers %d: libraries that look there for the keys find none", d.name, a.status)
			continue
		}
		if mediaType, _, _ := mime.ParseMediaType(a.header.Get("Content-Type")); mediaType != "application/json" {
			x.report.add(Warning, checkMetadata, nil, "%s has the media type %.40q, and application/json is wanted", d.name, mediaType)
		}
		var m struct {
			Issuer  *string `json:"issuer"`
			JWKSURI string  `json:"jwks_uri"`
		}
		if err := json.Unmarshal(a.body, &m); err != nil {
			x.report.add(Broken, checkMetadata, nil, "%s is not JSON of the right shape", d.name)
			continue
		}
		switch {
		case m.Issuer == nil:
			x.report.add(Broken, checkMetadata, nil, "%s has no issuer", d.name)
		case *m.Issuer != x.Issuer:
			x.report.add(Broken, checkMetadata, nil, "%s says that the issuer is %.100q: it is compared byte by byte (RFC 8414 §3.3)", d.name, *m.Issuer)
		}
		if m.JWKSURI == "" {
			x.report.add(Broken, checkMetadata, nil, "%s has no jwks_uri", d.name)
			continue
		}
		found[d.name] = m.JWKSURI
	}
	uris := slices.Compact(slices.Sorted(maps.Values(found)))
	if len(uris) > 1 {
		x.report.add(Broken, checkMetadata, nil, "the two documents name different key sets")
	}
	if x.JWKSURL == "" && len(uris) > 0 {
		x.JWKSURL = uris[0]
	}
	if len(found) == 0 && x.JWKSURL == "" {
		x.JWKSURL = strings.TrimSuffix(x.Issuer, "/") + "/.well-known/jwks.json"
		x.report.add(Broken, checkMetadata, nil, "no metadata names the key set; %s is tried", x.JWKSURL)
	}
	x.report.JWKSURL = x.JWKSURL
	j, err := url.Parse(x.JWKSURL)
	switch {
	case err != nil || j.Host == "":
		x.report.add(Broken, checkMetadata, nil, "jwks_uri %.100q is not an absolute URL", x.JWKSURL)
	case j.Scheme != "https" && !loopback(j.Hostname()):
		x.report.add(Broken, checkMetadata, nil, "jwks_uri is not https: whoever can write to the network between can replace the keys")
	case j.Scheme+"://"+j.Host != origin:
		x.report.add(Note, checkMetadata, nil, "the key set is at another origin, %.100q", j.Scheme+"://"+j.Host)
	}
	if len(found) == len(documents) && len(uris) == 1 {
		x.report.add(OK, checkMetadata, nil, "both documents are there and agree")
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// plain is an error without the URL that we know.
func plain(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return strings.ReplaceAll(fmt.Sprintf("%.200s", err.Error()), "\n", " ")
}

// jwks fetches the key set as it is served.
func (x *examiner) jwks(ctx context.Context) {
	r := x.report
	a, err := x.get(ctx, x.JWKSURL, nil)
	if err != nil {
		r.add(Broken, checkJWKS, []string{"everybody"}, "the key set can't be had: %s", plain(err))
		return
	}
	if a.status != http.StatusOK {
		r.add(Broken, checkJWKS, []string{"everybody"}, "the key set answers %d", a.status)
		return
	}
	r.Reached, r.set, r.ETag = true, a.body, a.header.Get("Etag")
	switch {
	case a.took > 5*time.Second:
		r.add(Broken, checkJWKS, libraries("nimb", "jose"), "it took %v: over their time limits of 500 ms and 5 s", a.took.Round(time.Millisecond))
	case a.took > 500*time.Millisecond:
		r.add(Warning, checkJWKS, libraries("nimb"), "it took %v: over its time limit of 500 ms", a.took.Round(time.Millisecond))
	}
	if a.redirects > 0 {
		r.add(Warning, checkJWKS, []string{"pkg/verify, across origins"}, "it is served after %d redirects, which not every library follows", a.redirects)
	}
	switch mediaType, _, _ := mime.ParseMediaType(a.header.Get("Content-Type")); mediaType {
	case "application/jwk-set+json", "application/json":
	default:
		r.add(Warning, checkJWKS, nil, "its media type is %.40q: application/jwk-set+json (RFC 7517 §8.5) or application/json is wanted", mediaType)
	}
	if a.header.Get("Access-Control-Allow-Origin") == "" {
		r.add(Note, checkJWKS, nil, "no Access-Control-Allow-Origin: pages of other origins can't fetch it")
	}
	if a.header.Get("Set-Cookie") != "" {
		r.add(Warning, checkCache, nil, "it sets a cookie: many CDNs don't keep such an answer")
	}
	x.cacheLife(a)
	x.again(ctx, a)
	x.clock(a)
	x.keySet(a.body)
}

// cacheLife judges for how long caches keep the set (RFC 9111).
func (x *examiner) cacheLife(a *answer) {
	r := x.report
	directives := map[string]string{}
	for part := range strings.SplitSeq(strings.Join(a.header.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		directives[strings.ToLower(name)] = strings.Trim(value, `"`)
	}
	_, noStore := directives["no-store"]
	_, noCache := directives["no-cache"]
	_, private := directives["private"]
	value, has := directives["max-age"]
	seconds, err := strconv.ParseInt(value, 10, 32)
	switch {
	case noStore, noCache, private:
		r.add(Warning, checkCache, nil, "Cache-Control forbids shared caches to keep it: every verifier's fetch comes to the issuer, all at once when a key starts to sign")
	case !has && a.header.Get("Expires") == "":
		r.add(Warning, checkCache, libraries("jose4j"), "no max-age: caches guess for how long it is good, and a key that is to be revoked stays in them")
	case has && (err != nil || seconds < 0):
		r.add(Warning, checkCache, libraries("jose4j"), "max-age is %.20q, which is no number of seconds", value)
	case has:
		r.MaxAge = time.Duration(seconds) * time.Second
		switch {
		case seconds > 3600:
			r.add(Warning, checkCache, nil, "max-age is %v: a revoked key goes on being taken for that long, and an announced one isn't seen", r.MaxAge)
		case seconds < 10:
			r.add(Note, checkCache, nil, "max-age is %v: nearly every fetch comes to the issuer", r.MaxAge)
		default:
			r.add(OK, checkCache, nil, "caches keep it for %v", r.MaxAge)
		}
	}
	if text := a.header.Get("Age"); text != "" {
		switch age, err := strconv.ParseInt(text, 10, 32); {
		case err != nil || age < 0:
			r.add(Warning, checkCache, nil, "Age is %.20q, which is no number of seconds", text)
		case r.MaxAge > 0 && time.Duration(age)*time.Second > r.MaxAge:
			r.add(Broken, checkCache, []string{"everybody behind that cache"}, "a cache between serves a set that is %d s old, over its max-age of %v: a new key is seen later than the issuer counts with", age, r.MaxAge)
		default:
			r.add(Note, checkCache, nil, "a shared cache stands between, and gave a set %d s old: add max-age to every lead", age)
		}
	}
	for name := range strings.SplitSeq(strings.Join(a.header.Values("Vary"), ","), ",") {
		switch name = strings.ToLower(strings.TrimSpace(name)); name {
		case "", "accept-encoding", "origin", "accept":
		case "*":
			r.add(Warning, checkCache, nil, "Vary: * keeps every shared cache from keeping it")
		default:
			r.add(Warning, checkCache, nil, "Vary has %.40q: a shared cache keeps a set for each value, each of another age", name)
		}
	}
}

// again fetches the set a few times more: conditionally, with a parameter, and
// from other replicas.
func (x *examiner) again(ctx context.Context, first *answer) {
	r := x.report
	if r.ETag == "" {
		r.add(Note, checkCache, nil, "no ETag: whoever looks again fetches all of it, and can't say which set it holds")
	} else if a, err := x.get(ctx, x.JWKSURL, map[string]string{"If-None-Match": r.ETag}); err == nil && a.status != http.StatusNotModified {
		if a.status == http.StatusOK && a.header.Get("Etag") != r.ETag {
			r.add(Warning, checkCache, nil, "the ETag changed between two fetches: replicas that differ, or a rotation just now")
		} else {
			r.add(Warning, checkCache, nil, "its own ETag in If-None-Match is answered %d instead of 304", a.status)
		}
	}
	separator := "?"
	if strings.Contains(x.JWKSURL, "?") {
		separator = "&"
	}
	if a, err := x.get(ctx, x.JWKSURL+separator+"kid=doctor", nil); err != nil || a.status != http.StatusOK {
		r.add(Broken, checkJWKS, libraries("rauth"), "with ?kid=… in the URL, as it asks, the set isn't served")
	}
	for range 3 {
		if a, err := x.get(ctx, x.JWKSURL, map[string]string{"Cache-Control": "no-cache"}); err == nil && a.status == http.StatusOK && string(a.body) != string(first.body) {
			r.add(Warning, checkJWKS, nil, "two fetches brought different sets: replicas that differ, or a rotation just now")
			return
		}
	}
}

// clock compares the issuer's Date with ours.
func (x *examiner) clock(a *answer) {
	date, err := http.ParseTime(a.header.Get("Date"))
	if err != nil {
		x.report.add(Note, checkClock, nil, "no Date in the answer: its clock can't be compared with ours")
		return
	}
	age, _ := strconv.Atoi(a.header.Get("Age")) // a cached Date is that old
	date = date.Add(time.Duration(max(age, 0)) * time.Second)
	// It was written at some moment of the request and has whole seconds.
	var off time.Duration
	if early := a.at.Add(-a.took); date.Add(time.Second).Before(early) {
		off = date.Add(time.Second).Sub(early)
	} else if date.After(a.at) {
		off = date.Sub(a.at)
	}
	switch {
	case off > time.Minute, off < -time.Minute:
		x.report.add(Broken, checkClock, []string{"everybody"}, "its clock and ours differ by %v: tokens seem expired, or made in the future", off.Round(time.Second))
	case off > 5*time.Second:
		x.report.add(Warning, checkClock, libraries("pyjwt", "authl", "auth0", "jwx2", "jwx3", "php"), "its clock is %v ahead of ours: an iat in the future is refused", off.Round(time.Second))
	case off < -5*time.Second:
		x.report.add(Warning, checkClock, nil, "its clock is %v behind ours: tokens live that much shorter", -off.Round(time.Second))
	default:
		x.report.add(OK, checkClock, nil, "its clock and ours agree")
	}
}

// libraries are verifiers of the table by their full names.
func libraries(names ...string) (out []string) {
	for _, name := range names {
		if v, ok := keys.FindVerifier(name); ok {
			out = append(out, v.Library)
		}
	}
	return out
}

// allBut are the verifiers of the table but some.
func allBut(names ...string) (out []string) {
	for _, v := range keys.Verifiers() {
		if !slices.Contains(names, v.Name) {
			out = append(out, v.Library)
		}
	}
	return out
}

// withoutEdDSA are the verifiers that do RS256 only.
func withoutEdDSA() (out []string) {
	for _, v := range keys.Verifiers() {
		if !v.EdDSA {
			out = append(out, v.Library)
		}
	}
	return out
}

// Text is the report for a person.
func (r *Report) Text(w io.Writer) {
	fmt.Fprintf(w, "issuer  %s\nkeys    %s\n\n", r.Issuer, cmp.Or(r.JWKSURL, "not found"))
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%-8s %-9s %s\n", strings.ToUpper(string(f.Level)), f.Check, f.Message)
		if len(f.Who) > 0 {
			fmt.Fprintf(w, "%18s hits: %s\n", "", strings.Join(f.Who, "; "))
		}
	}
	if len(r.Keys) > 0 {
		fmt.Fprintln(w)
	}
	for _, k := range r.Keys {
		fmt.Fprintf(w, "key     %-8s %-4s %-8s use=%-4s %s\n",
			printable(k.Algorithm), printable(k.Type), printable(k.Curve), printable(k.Use), printable(k.KeyID))
	}
}

// printable is a text of the issuer's that may stand on a terminal.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	q := strconv.QuoteToASCII(fmt.Sprintf("%.64s", s))
	return q[1 : len(q)-1]
}
