// Package alerts evaluates docs/prometheus-rules.yaml with Prometheus' own
// code, on what the real program serves at /metrics. It is a module of its own,
// because Prometheus brings a hundred modules that urbandata needs for nothing
// else. `make alerts` runs it.
package alerts
