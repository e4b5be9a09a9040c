// Package verify verifies access tokens offline: for the price of one
// signature check, with no request to the issuer on the way, and through any
// failure of the issuer that a cached key set can bear.
//
// # Use
//
//	v, err := verify.New(verify.Options{
//		Issuer:   "https://id.example",
//		Audience: "inmuebles",
//		JWKSURL:  "https://id.example/.well-known/jwks.json",
//	})
//	...
//	go v.Run(ctx) // keeps the keys fresh until ctx ends
//
//	mux.Handle("GET /inmuebles", v.Middleware(v.Require("inmuebles:read")(list)))
//
// [New] validates and starts nothing. [Verifier.Run] fetches the keys.
// [Verifier.Check] says whether any are held, for a readiness probe. Handlers
// read the claims with [FromContext]. Servers with their own way to answer
// errors use [Verifier.VerifyRequest], [CheckScope], [CheckLogin] and
// [Challenge]. [Verifier.RequireLogin] steps up (RFC 9470). [As] and
// [Private] read claims of your own, [NewMulti] takes the tokens of several
// issuers. Package verifytest is an issuer for tests. All of it needs nothing
// but the standard library.
//
// # What is checked
//
// The checklist is numbered in verify.go, in this order: size and form, strict
// header, no critical extension, alg, typ, kid, signature, strict claims, iss,
// aud, exp, nbf, iat, sub, token_type (RFC 7515, RFC 7519, RFC 8725, RFC 9068
// §4). A token passes all or is refused with one of the sentinel errors. Only
// EdDSA (Ed25519), RS256, PS256 and ES256 exist. The key decides the algorithm,
// and the header must agree. Keys, addresses and certificates in the header are
// ignored.
//
// Stricter than most libraries, on purpose: members that appear twice and text
// that is not Unicode are refused, anywhere in header and claims; base64url
// must be canonical; kid, exp and sub are required; claims of package token
// must be of their kind, so null is refused; numbers must lie within ±2^53;
// PS256 needs a salt as long as the hash.
//
// # The key set
//
//	             first good answer              its life passes
//	  empty ────────────────────────► fresh ◄───────────────────► stale
//	(refuses)                      (verifies)    good answer    (verifies)
//	                                    ▲                            │
//	                                    │                            │ MaxStale passes
//	                                    │        good answer         ▼
//	                                    └───────────────────────  expired
//	                                                             (refuses)
//
// Refusal is [ErrKeySetUnavailable]: no token is accepted without a key set,
// and none is called bad.
//
//   - The set lives as long as the issuer's max-age (less Age) says, within
//     clamps. Run fetches the next at 70 to 90 % of that, at random, with
//     If-None-Match. An answer that a cache had in store (it has an Age) lives
//     longer by MinAge, and the next is fetched in that time, when the cache
//     must have a new one. After a failure Run tries again after 0.1 s,
//     doubling up to a minute, half of it random.
//   - A new set replaces the old one as a whole: a key that is gone is gone.
//     An answer that fails, is too long, can't be read, or has no usable key
//     replaces nothing. A key that we can't use is skipped (see
//     [ParseKeySet]). Redirects are followed within the origin only. An issuer
//     that says Retry-After is left alone for so long, up to a minute.
//   - With CacheOptions.File the last good set is also on disk. It is looked at
//     when the first fetch of a process has failed, and lives no longer there
//     than in memory.
//   - A token whose kid is not in the set asks for one fetch, which all such
//     tokens of the moment share and wait for. It is claimed beforehand from a
//     budget (five at once, one more every ten seconds), so made-up kids can't
//     use the verifier to flood the issuer. A kid that the issuer does not
//     have is remembered for half a minute. A flood of them can't keep a real
//     rotation out either: each fetch it causes brings the whole set.
//   - A bad signature asks for no fetch.
//   - A token whose kid is in the set waits for nothing and nobody: its
//     key is found without a lock, in an immutable snapshot.
//   - A caller gives up waiting when its context ends, or the fetch does
//     (FetchTimeout).
//
// # The token cache
//
// With Options.TokenCacheBytes a token that was found good is kept, and the
// next request that carries it costs a look-up (0.14 µs, no allocation) instead
// of a signature check (some 40 µs). What is trusted by that:
//
//   - That a token which was good is good still, but for what can change: its
//     times are checked at each hit, and when the key set changes, or is too
//     old to be used, every token kept is void in that instant.
//   - The memory of this process, as for the keys themselves. It then holds
//     tokens for as long as they take to be overwritten. Who can read it could
//     read them in the requests as well, but not those of before.
//
// It trusts no hash: a token is compared as a whole. It is never asked for more
// memory than its bound, and only good tokens are in it. How long an answer
// takes shows whether a token was seen before, to who has the token.
//
// # Revocations
//
// By itself a token is good until it expires, whatever has become of its
// session. With Options.Revocations the verifier follows the issuer's signed
// list of what has ended (format: token.Revocations, and docs/verify.md), and
// refuses with [ErrRevoked], a moment after the issuer has said so.
//
//		              a first list comes            nothing comes, MaxSilence passes
//		  unheard ─────────────────────► following ───────────────────────► silent
//		(verifies) ─────────────────────────────────────────────────────►  (refuses)
//		     │       MaxSilence passes       ▲                                 │
//		     │ 404, and Optional             └─────────────────────────────────┘
//		     ▼                                         a list comes
//		  absent: verifies, and asks again each minute
//
//	  - News come by a stream of events. One that is silent for 10 s is given up:
//	    an issuer without news says so every 3 s. While there is no stream, the
//	    list is fetched every second.
//	  - Each statement is verified as strictly as a token: typ, alg, signature by
//	    a key of the set, iss, exp, iat. What fails changes nothing and counts as
//	    silence. So nobody between can end a session, and who holds news back is
//	    noticed: a statement says until when it speaks of the present.
//	  - News follow upon a place in a sequence without gaps. If that isn't held,
//	    the whole list is fetched. The sequence never goes back, unless nothing
//	    that is held is of use any more.
//	  - A token costs a look or two into maps that are never locked (30 ns, no
//	    allocation), in the token cache too. MaxEntries bounds the memory; an
//	    entry goes when its tokens have expired.
//	  - Silence beyond MaxSilence refuses every token with
//	    [ErrRevocationsUnavailable], and [Verifier.Check] says so.
//
// # What is trusted
//
// The key set's address and the TLS between; the clock, within Leeway. Who can
// write the issuer's key set, or holds one of its private keys, can make any
// token. A token stays good until its exp, until the issuer says that it has
// ended, if that is followed, or until its key leaves the set and the set is
// fetched again (at most MaxAge, plus MaxStale while the issuer can't be
// reached). With CacheOptions.File, who can write that file can make any token
// while the issuer can't be reached.
//
// # Benchmarks and attacks
//
// testdata/attacks.json has some 400 hostile tokens as recipes, which
// verifytest.Attacker makes for any issuer. go test -bench measures in turns
// with the bare signature check and one json.Unmarshal of the claims ("raw"),
// and so do go-jose and jwx for comparison.
package verify
