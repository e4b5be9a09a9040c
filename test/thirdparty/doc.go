// Package thirdparty runs what docs/verify.md recommends to others: each
// program under docs/verify, with its library from that library's own
// registry, against the real authserver; `urbandata verify-proxy` behind a real
// nginx and a real Caddy; and, below clients, OAuth 2.0 clients of three
// languages against /oauth2. There is nothing here but tests.
//
//	make test-verifiers
//
// They need toolchains that the rest of the house doesn't (Node, Python, a
// JDK with Maven, Cargo, nginx, Caddy), hence the build tag verifiers. One
// that is missing is a failure that says how to get it. Libraries are kept in the
// user's cache folder, under urbandata/verifiers, so only the first run waits
// for them.
//
// A verifier is a process that reads tokens as lines and answers each with
// "ok SUBJECT" or "refused WHY". All are asked the same tokens: those that
// authn issues, and those that the test signs with authn's own keys, taken
// from its database with its sealing key, to be wrong in one thing each. Then
// they are asked about the attacks of pkg/verify/testdata.
//
// A client is a process that reads requests as lines of JSON, carries each out
// with its library as that library would have it, and answers what came of it.
package thirdparty
