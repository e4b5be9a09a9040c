//go:build race

package model

// The walk has one goroutine; under the race detector a part of it is enough.
func init() { brief = true }
