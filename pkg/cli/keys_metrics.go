package cli

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/keys"
)

// keyMetrics shows what an operator wants to be woken for. It looks at the
// keeper when it is asked, so it can't fall behind. docs/prometheus-rules.yaml
// has an alert for each.
type keyMetrics struct{ keeper *keys.Keeper }

func keyMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("urbandata_keys_"+name, help, labels, nil)
}

var (
	keyTicks      = keyMetric("ticks_total", "Looks at the stored ring.")
	keyFailures   = keyMetric("tick_failures_total", "Looks that failed.")
	keyConflicts  = keyMetric("conflicts_total", "Changes that another replica made first.")
	keyVersion    = keyMetric("ring_version", "Version of the ring in memory.")
	keyReadAt     = keyMetric("ring_read_timestamp_seconds", "When the ring in memory was last known to be the stored one.")
	keyHeld       = keyMetric("held_rotations", "Planned rotations that are due and held back.")
	keyClock      = keyMetric("clock_offset_seconds", "How far the clock is ahead of the database's, as far as that is certain.")
	keyCount      = keyMetric("ring_keys", "Keys in the ring.", "alg", "state")
	keySealed     = keyMetric("sealed", "Private halves in the ring, by the id of the sealing key that seals them.", "by")
	keySince      = keyMetric("signing_since_timestamp_seconds", "Since when the signing key of an algorithm signs.", "alg")
	keyTransition = keyMetric("next_transition_timestamp_seconds", "When the signing key of an algorithm is due to change.", "alg")
	keyPolicy     = keyMetric("policy_seconds", "Times of the key policy.", "setting")
)

// Describe implements [prometheus.Collector].
func (m *keyMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		keyTicks, keyFailures, keyConflicts, keyVersion, keyReadAt, keyHeld, keyClock, keyCount, keySealed, keySince, keyTransition, keyPolicy,
	} {
		out <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *keyMetrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value uint64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value))
	}
	s := m.keeper.Stats()
	counter(keyTicks, s.Ticks)
	counter(keyFailures, s.Failures)
	counter(keyConflicts, s.Conflicts)
	gauge(keyVersion, float64(s.Version))
	gauge(keyReadAt, unix(s.ReadAt))
	gauge(keyHeld, float64(s.Held))
	gauge(keyClock, s.ClockOff.Seconds())

	policy, ring := m.keeper.Policy(), m.keeper.Ring()
	gauge(keyPolicy, policy.RotationPeriod.Seconds(), "rotation_period")
	gauge(keyPolicy, policy.AnnounceLead.Seconds(), "announce_lead")
	gauge(keyPolicy, policy.MaxStale().Seconds(), "max_stale")

	type kind struct{ alg, state string }
	counts, sealed := map[kind]int{}, map[string]int{}
	for _, alg := range policy.Algorithms { // none is a number too, and one to be woken for
		for _, state := range []keys.State{keys.Announced, keys.Signing, keys.Retiring, keys.Retired, keys.Revoked} {
			counts[kind{string(alg), string(state)}] = 0
		}
	}
	for i := range ring.Keys {
		k := &ring.Keys[i]
		counts[kind{string(k.Alg), string(k.State)}]++
		if by := k.Sealed.By(); by != "" {
			sealed[by]++
		}
		if k.State != keys.Signing {
			continue
		}
		gauge(keySince, unix(k.Since()), string(k.Alg))
		if _, at, ok := k.Next(); ok {
			gauge(keyTransition, unix(at), string(k.Alg))
		}
	}
	for k, n := range counts {
		gauge(keyCount, float64(n), k.alg, k.state)
	}
	for by, n := range sealed {
		gauge(keySealed, float64(n), by)
	}
}

// unix is a time as Prometheus has it; 0 for none.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
