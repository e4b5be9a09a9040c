// Package postgrest runs the stock client of PostgREST for JavaScript against
// inmuebles, on both of its engines. It needs Node with npm, which fetches the
// client once, so it has the build tag of the tests with other people's
// programs: make test-verifiers.
package postgrest
