//go:build race

package authserver

// The race detector makes argon2id ten times slower, and finds nothing in it.
func init() { hashParams = argonParams{memory: 1024, time: 1, threads: 1} }
