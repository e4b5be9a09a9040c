//go:build race

package verify_test

// inFlight is what TestFloodInFlight has at once. The race detector bears no
// more than 8,128 goroutines.
const inFlight = 6000
