package main

import "strings"

// promise is a line of the table: what a metric of a benchmark is to be.
type promise struct {
	name   string
	pkg    string // below the module
	bench  string
	unit   string
	target float64
	least  bool    // at least the target, not at most
	margin float64 // what noise may add, as a share of the target
}

// exact reports whether the figure is the same on every machine.
func (p *promise) exact() bool {
	return strings.Contains(p.unit, "alloc") || strings.HasSuffix(p.unit, "queries/op")
}

// kept reports whether a figure is as promised, with a margin.
func (p *promise) kept(v, margin float64) bool {
	if p.least {
		return v >= p.target*(1-margin)
	}
	return v <= p.target*(1+margin)
}

// noise is how far the median of one run lies off on a machine of two cores
// that others use: seen in runs one after the other.
const noise = 0.10

// promises are in the order of a request's way through the house.
var promises = func() []promise {
	all := []promise{
		{"verify EdDSA", "pkg/verify", "BenchmarkVerify/EdDSA/pkg-verify", "x/raw", 1.05, false, noise},
		{"verify EdDSA, allocations", "pkg/verify", "BenchmarkVerify/EdDSA/pkg-verify", "allocs/ours", 10, false, 0},
		{"verify RS256", "pkg/verify", "BenchmarkVerify/RS256/pkg-verify", "x/raw", 1.05, false, noise},
		{"verify RS256, allocations", "pkg/verify", "BenchmarkVerify/RS256/pkg-verify", "allocs/ours", 16, false, noise},
		{"verify on both cores", "pkg/verify", "BenchmarkVerifyCached/all cores", "x/alone", 1.25, false, noise},
		{"middleware, called", "pkg/verify", "BenchmarkMiddleware/call", "x/without-auth", 1.25, false, noise},
		{"middleware over HTTP", "pkg/verify", "BenchmarkMiddleware/HTTP", "x/without-auth", 1.05, false, noise},
		{"parse 20 keys", "pkg/verify", "BenchmarkParseKeySet", "x/json.Unmarshal", 2, false, noise},

		{"sign EdDSA", "keys", "BenchmarkSign/EdDSA/ours", "x/raw", 1.10, false, noise},
		{"sign RS256", "keys", "BenchmarkSign/RS256/ours", "x/raw", 1.05, false, noise},
		{"a tick without work, queries", "keys", "BenchmarkTick", "queries/op", 1, false, 0},

		{"JWKS", "authserver", "BenchmarkJWKS", "x/bare-mux", 1.05, false, noise},
		{"JWKS, 304", "authserver", "BenchmarkJWKS", "304-x/bare-mux", 1.05, false, noise},
		{"revocations, 304", "authserver", "BenchmarkRevocationList/304", "x/jwks", 1.05, false, noise},
		{"login", "authserver", "BenchmarkLogin", "x/argon2id", 1.05, false, noise},
		{"refresh, in process", "authserver", "BenchmarkGrants/refresh/handler", "x/insert+sign", 2, false, noise},
		{"refresh over HTTP", "authserver", "BenchmarkGrants/refresh/loopback", "x/HTTP-insert+sign", 2, false, noise},
		{"client_credentials, in process", "authserver", "BenchmarkGrants/client_credentials/handler", "x/insert+sign", 2, false, noise},
		{"client_credentials over HTTP", "authserver", "BenchmarkGrants/client_credentials/loopback", "x/HTTP-insert+sign", 2, false, noise},

		{"load, SQLite", "resourceserver", "BenchmarkLoad/SQLite", "x/floor", 0.85, true, noise},
		{"load, MongoDB", "resourceserver", "BenchmarkLoad/MongoDB", "x/floor", 0.85, true, noise},
	}
	// Growth: with 100,000 users and sessions against 1,000, with 40 keys
	// against few.
	for _, q := range []string{
		"login", "refresh", "client_credentials", "introspect", "sign-out", "register", "me", "sessions", "admin, users",
		"admin, users by address", "admin, audit of a user", "audit, chain one", "purge, idle", "revocations, idle",
	} {
		all = append(all, promise{q + ", 100,000 users against 1,000", "authserver", "BenchmarkGrowth/users/" + q, "x/1000", 1.2, false, 2 * noise})
	}
	for _, q := range []string{"issue", "verify", "JWKS", "JWKS, 304"} {
		all = append(all, promise{q + ", 40 keys against 4", "authserver", "BenchmarkGrowth/keys/" + q, "x/4-keys", 1.2, false, noise})
	}
	all = append(all,
		promise{"sign, 40 keys against 2", "keys", "BenchmarkGrowth/keys/sign", "x/2-keys", 1.2, false, noise},
		promise{"verify EdDSA, 40 keys against 1", "pkg/verify", "BenchmarkGrowth/keys", "x/1-key", 1.2, false, noise},
	)
	for _, engine := range []string{"SQLite", "MongoDB"} {
		seen := 0.50
		if engine == "MongoDB" {
			seen = 0.75
		}
		for _, q := range []struct {
			name   string
			target float64
		}{
			{"get, new tokens", 1.15},
			{"get, token seen", seen},
			{"list of 50, new tokens", 1.10},
			{"3 conditions, new tokens", 1.15},
			{"box, new tokens", 1.15},
			{"post, new tokens", 1.30},
		} {
			all = append(all, promise{
				q.name + ", " + engine, "resourceserver",
				"BenchmarkFloor/" + engine + "/20000/" + strings.ReplaceAll(q.name, " ", "_"), "x/floor", q.target, false, noise,
			})
		}
		for _, q := range []string{
			"list of 50", "the same, half-way down", "3 conditions", "box of a quarter", "near, of a quarter", "area of a quarter", "words that few have",
			"the same, a tenth down", "the same, nine tenths down", "3 conditions, half-way down", "of a boundary", "box of a quarter, by date",
			"area of a quarter, by date", "a word that many have", "words that nobody has", "get", "post", "patch",
		} {
			all = append(all, promise{
				q + ", 200,000 against 20,000, " + engine, "resourceserver",
				"BenchmarkGrowth/" + engine + "/" + strings.ReplaceAll(q, " ", "_"), "x/20000", 1.2, false, 2 * noise,
			})
		}
	}
	// In results a blank is an underscore.
	for i := range all {
		all[i].bench = strings.ReplaceAll(all[i].bench, " ", "_")
	}
	return all
}()
