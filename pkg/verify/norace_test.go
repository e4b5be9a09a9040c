//go:build !race

package verify_test

// inFlight is what TestFloodInFlight has at once.
const inFlight = 10_000
