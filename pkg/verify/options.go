package verify

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/urbandata/urbandata/pkg/verify/pace"
)

// The defaults of [Options] and [CacheOptions].
const (
	// DefaultLeeway is how far the clocks of issuer and verifier may differ.
	// Machines that keep time are within a second, and our issuer dates iat
	// five seconds back; a second more is a second longer that a stolen token
	// works. 30 s bears a clock that has just lost its server, and is half of
	// the 60 s for which the issuer keeps a key published after the last
	// token that it signed.
	DefaultLeeway = 30 * time.Second

	DefaultMinAge         = 15 * time.Second
	DefaultMaxAge         = time.Hour
	DefaultAge            = 5 * time.Minute
	DefaultMaxStale       = time.Hour
	DefaultFetchTimeout   = 5 * time.Second
	DefaultMaxKeySetBytes = 512 << 10
	DefaultBurst          = 5
	DefaultEvery          = 10 * time.Second

	// DefaultMaxSilence is for how long tokens are verified without word of
	// what has ended, before the issuer has said how long its tokens live.
	DefaultMaxSilence = 5 * time.Minute

	// DefaultMaxEntries take some 10 MB: 300 sign-outs a second with tokens of
	// five minutes.
	DefaultMaxEntries = 100_000

	// DefaultTokenCacheBytes has room for some 10,000 of our tokens, and so
	// for as many users as are active within a token's life. It is not taken
	// by itself: see [Options.TokenCacheBytes].
	DefaultTokenCacheBytes = 16 << 20
)

// Options says what tokens a [Verifier] accepts and where its keys come from.
// Issuer, Audience, and one of JWKSURL and Keys are needed; the zero of all
// else means its default.
type Options struct {
	// Issuer is the only iss accepted, compared byte for byte.
	Issuer string
	// Audience is the name of this service: aud must contain it.
	Audience string
	// JWKSURL is where the issuer publishes its keys. It must be https, or
	// http on this machine, unless AllowHTTP is set.
	JWKSURL string
	// AllowHTTP permits a JWKSURL or Revocations.URL without TLS: whoever can
	// write to the network between can then forge any token.
	AllowHTTP bool
	// Keys is a fixed key set, for tests and for keys that come by another
	// way. It excludes JWKSURL; nothing is fetched and nothing goes stale.
	Keys *KeySet

	// Algorithms is the allow-list (default: all of [Algorithms]).
	Algorithms []string
	// Types lists the header's typ accepted (default: "at+jwt"), compared as
	// media types: in any case, with or without "application/".
	Types []string
	// Leeway is the clock difference forgiven for exp, nbf and iat (default
	// [DefaultLeeway], negative: none; at most five minutes).
	Leeway time.Duration
	// MaxTokenBytes bounds a token (default [DefaultMaxTokenBytes]).
	MaxTokenBytes int
	// TokenCacheBytes bounds the memory for tokens that were verified, so that
	// the next request with one of them costs no signature check: see "The
	// token cache" in the package comment. Zero keeps none;
	// [DefaultTokenCacheBytes] is a good size. At least 16 KiB.
	TokenCacheBytes int64
	// Name tells the issuer who asks for its keys: it is sent as the header
	// Urbandata-Verifier with each fetch, so that an operator who is about to
	// rotate or revoke a key can see who holds which set. Optional; up to 64
	// visible ASCII characters.
	Name string
	// Realm is the realm of challenges that the middleware sends (default:
	// Audience).
	Realm string

	// Revocations says whether the issuer is heard on tokens that have ended
	// before their time. By default it isn't.
	Revocations RevocationOptions

	// Cache tunes how keys are fetched and kept.
	Cache CacheOptions
	// HTTPClient fetches the keys (default: a client of its own). Its
	// Transport and Timeout are used; its redirect policy and cookie jar are
	// not.
	HTTPClient *http.Client
	// Now is the clock (default: time.Now). It must be safe for concurrent use.
	Now func() time.Time
	// Logger is told of fetches that fail, sets that change and keys that are
	// skipped (default: nobody). It never sees a token.
	Logger *slog.Logger
	// Hooks are called at each outcome, for metrics.
	Hooks Hooks
}

// CacheOptions tunes the key cache. The zero of each field means its default.
type CacheOptions struct {
	// A set lives as long as the answer's max-age less its Age, but at least
	// MinAge and at most MaxAge, and DefaultAge if the answer does not say.
	// One that a cache had in store lives longer by MinAge: see package pace.
	// MaxAge bounds for how long a revoked key is taken while the issuer can
	// be reached.
	MinAge, MaxAge, DefaultAge time.Duration
	// MaxStale is for how long after its life a set is used if no better can
	// be fetched. Then every token is refused: longer rides out a longer
	// outage, and lets who can cut the network keep a revoked key alive
	// longer. Negative: not at all.
	MaxStale time.Duration
	// FetchTimeout bounds one fetch from connect to the body's last byte.
	FetchTimeout time.Duration
	// File is where the last good set is kept on disk, so that a verifier can
	// start while the issuer is down. Optional. It is written with mode 0600
	// whenever the issuer has confirmed the set, and read only when the first
	// fetch of Run has failed. What it holds may be used for as long as if
	// this process had fetched it. One that is of another issuer or URL,
	// damaged, too old, or writable by others is not used. Its folder must
	// exist. Each verifier needs its own.
	File string
	// MaxKeySetBytes bounds the document, after decompression.
	MaxKeySetBytes int64
	// Burst and Every are the budget for fetches asked for by unknown kids:
	// Burst at once, one more Every so often.
	Burst int
	Every time.Duration
}

// RevocationOptions say how a verifier follows what the issuer says has ended:
// see "Revocations" in the package comment.
type RevocationOptions struct {
	// URL is where the issuer publishes its list; what is new comes from
	// URL + "/stream". The rules are those of JWKSURL. Empty: none is followed.
	URL string
	// MaxSilence is the policy: for how long after its last word tokens are
	// verified while the issuer can't be heard. Then all are refused with
	// [ErrRevocationsUnavailable]. Default: for the life of an access token, as
	// the issuer states it ([DefaultMaxSilence] until it has), which costs
	// nothing if the issuer is down, since it issues no tokens then. Negative:
	// for ever.
	MaxSilence time.Duration
	// Optional is for an issuer that may have no list: while it answers with a
	// 4xx that says so, or with anything but a JWT, and never had a list, tokens
	// are verified without. It is asked again every minute.
	Optional bool
	// MaxEntries bounds what is held (default [DefaultMaxEntries]). A longer
	// list is not taken.
	MaxEntries int
}

// rules are the bounds on a set's life.
func (c *CacheOptions) rules() pace.Rules {
	return pace.Rules{MinAge: c.MinAge, MaxAge: c.MaxAge, DefaultAge: c.DefaultAge, MaxStale: c.MaxStale}
}

// Hooks are called synchronously, some on the request path: they must be
// quick and safe for concurrent use. Each may be nil.
type Hooks struct {
	// Verified is called at the end of each Verify, and by the middleware for
	// a request that it refuses before or after.
	Verified func(Outcome)
	// Fetched is called after each attempt to fetch the key set.
	Fetched func(Fetch)
	// Followed is called after each word of the issuer on what has ended, and
	// each failure to hear it.
	Followed func(Following)
}

// Outcome is what became of one token.
type Outcome struct {
	Reason    string // see [Reason]
	KeyID     string // of a key in the set, else empty: made-up kids can't fill a metric
	Algorithm string // of that key
	Issuer    string // whose token it claims to be; empty if that is nobody's we know
	Cached    bool   // it was found in the token cache
}

// Fetch is what became of one attempt to fetch the key set.
type Fetch struct {
	OnDemand bool          // asked for by a token with an unknown kid
	Status   int           // HTTP status, 0 without an answer
	Duration time.Duration // to the end of the body
	Changed  bool          // the key set is now another
	Keys     int           // usable keys now held
	Err      error         // nil: a usable set, or 304
}

// Following is one word of the issuer on what has ended, or a failure.
type Following struct {
	Streaming bool  // it came as it happened
	Sequence  int64 // the place up to which the list is now held
	Entries   int   // what is held
	New       int   // entries that it brought; 0 for a heartbeat
	Err       error // nil: it was taken
}

const maxLeeway = 5 * time.Minute

// resolve validates o and fills in the defaults.
func (o Options) resolve() (Options, error) {
	bad := func(format string, args ...any) (Options, error) {
		return Options{}, fmt.Errorf("%w: %s", ErrOptions, fmt.Sprintf(format, args...))
	}
	switch {
	case o.Issuer == "":
		return bad("Issuer is empty; set it to the iss of the tokens")
	case o.Audience == "":
		return bad("Audience is empty; set it to this service's name in aud")
	case (o.JWKSURL == "") == (o.Keys == nil):
		return bad("set either JWKSURL or Keys")
	case o.Keys != nil && o.Keys.size == 0:
		return bad("Keys holds no key; make it with ParseKeySet")
	case o.Leeway > maxLeeway:
		return bad("Leeway %v is over %v", o.Leeway, maxLeeway)
	case o.MaxTokenBytes < 0:
		return bad("MaxTokenBytes is negative")
	case o.TokenCacheBytes != 0 && o.TokenCacheBytes < minTokenCacheBytes:
		return bad("TokenCacheBytes %d is neither 0 nor at least %d", o.TokenCacheBytes, minTokenCacheBytes)
	}
	if !visible(o.Name) || len(o.Name) > maxName {
		return bad("Name is not of up to %d visible ASCII characters", maxName)
	}
	if o.Keys != nil && o.Cache.File != "" {
		return bad("Cache.File is of no use with Keys")
	}
	if o.JWKSURL != "" {
		if err := checkURL(o.JWKSURL, o.AllowHTTP); err != nil {
			return bad("JWKSURL %v", err)
		}
	}
	if r := o.Revocations; r.URL != "" {
		if err := checkURL(r.URL, o.AllowHTTP); err != nil {
			return bad("Revocations.URL %v", err)
		}
		if strings.Contains(r.URL, "?") {
			return bad("Revocations.URL must not have a query")
		}
		if r.MaxSilence > 0 && r.MaxSilence < maxQuiet {
			return bad("Revocations.MaxSilence %v is under %v, for which an issuer may have nothing to say", r.MaxSilence, maxQuiet)
		}
		if r.MaxEntries < 0 {
			return bad("Revocations.MaxEntries is negative")
		}
		o.Revocations.MaxEntries = orDefault(r.MaxEntries, DefaultMaxEntries)
	} else if r != (RevocationOptions{}) {
		return bad("Revocations has no URL")
	}
	if len(o.Algorithms) == 0 {
		o.Algorithms = Algorithms()
	}
	for _, alg := range o.Algorithms {
		if !slices.Contains(Algorithms(), alg) {
			return bad("algorithm %q is not one of %s", alg, strings.Join(Algorithms(), ", "))
		}
	}
	if len(o.Types) == 0 {
		o.Types = []string{defaultType}
	}
	types := make([]string, len(o.Types))
	for i, typ := range o.Types {
		if types[i] = mediaType(typ); types[i] == "" {
			return bad("Types has an empty entry")
		}
	}
	o.Types = types
	o.Algorithms = slices.Clone(o.Algorithms)
	if o.Leeway = orDefault(o.Leeway, DefaultLeeway); o.Leeway < 0 {
		o.Leeway = 0
	}
	o.MaxTokenBytes = orDefault(o.MaxTokenBytes, DefaultMaxTokenBytes)
	o.Realm = orDefault(o.Realm, o.Audience)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if o.Cache, err = o.Cache.resolve(); err != nil {
		return Options{}, err
	}
	return o, nil
}

func (c CacheOptions) resolve() (CacheOptions, error) {
	c.MinAge = orDefault(c.MinAge, DefaultMinAge)
	c.MaxAge = orDefault(c.MaxAge, DefaultMaxAge)
	c.DefaultAge = orDefault(c.DefaultAge, min(max(DefaultAge, c.MinAge), c.MaxAge))
	c.MaxStale = orDefault(c.MaxStale, DefaultMaxStale)
	c.FetchTimeout = orDefault(c.FetchTimeout, DefaultFetchTimeout)
	c.MaxKeySetBytes = orDefault(c.MaxKeySetBytes, DefaultMaxKeySetBytes)
	c.Burst = orDefault(c.Burst, DefaultBurst)
	c.Every = orDefault(c.Every, DefaultEvery)
	if c.MaxStale < 0 {
		c.MaxStale = 0
	}
	switch {
	case c.MinAge < 0, c.FetchTimeout < 0, c.MaxKeySetBytes < 0, c.Burst < 0, c.Every < 0:
		return c, fmt.Errorf("%w: a field of Cache is negative", ErrOptions)
	case c.MinAge > c.DefaultAge, c.DefaultAge > c.MaxAge:
		return c, fmt.Errorf("%w: Cache needs MinAge ≤ DefaultAge ≤ MaxAge, has %v, %v, %v",
			ErrOptions, c.MinAge, c.DefaultAge, c.MaxAge)
	}
	return c, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// maxName bounds Options.Name, in bytes.
const maxName = 64

// visible says whether s can be a header's value as it is.
func visible(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// checkURL says what is wrong with an address of the issuer's.
func checkURL(raw string, allowHTTP bool) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "":
		return errors.New("is not an absolute URL")
	case u.User != nil:
		return errors.New("must not hold a user or password")
	case u.Fragment != "":
		return errors.New("must not have a fragment")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return errors.New("must be https")
	case allowHTTP || loopback(u.Hostname()):
		return nil
	}
	return errors.New("must be https: over http anyone between can replace the keys (AllowHTTP permits it)")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}
