package cli

import (
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/pkg/verify"
)

const (
	revocationsPath = "/.well-known/revocations"

	revocationsAuto = "auto"
	revocationsOff  = "off"

	// minSilence is for how long a stream of a healthy issuer may be quiet.
	minSilence = 10 * time.Second
)

// follow fills in how a verifier hears of what has ended: value is auto, off,
// or a URL, and prefix is how the settings' variables begin.
//
// auto looks beside the key set where that is at its usual place, else below
// the issuer, and is content if there is nothing: another maker's issuer has no
// list. Who names a URL wants it followed.
func follow(o *verify.Options, log *slog.Logger, prefix, value string, silence time.Duration) error {
	if silence > 0 && silence < minSilence {
		return wrongSetting("--revocations-silence ("+prefix+"_REVOCATIONS_SILENCE)",
			"%v is too short: an issuer that has nothing to say may be quiet for %v; name a longer time, 0 for the life of a token, or -1s for ever", silence, minSilence)
	}
	switch value {
	case revocationsOff:
		return nil
	case revocationsAuto:
		base, usual := strings.CutSuffix(o.JWKSURL, jwksPath)
		if !usual {
			base = o.Issuer
		}
		if !o.AllowHTTP && !protected(base) {
			log.Warn("what has ended is not asked for, because the issuer's URL has no TLS (--revocations)", slog.String("issuer", o.Issuer))
			return nil
		}
		o.Revocations = verify.RevocationOptions{URL: base + revocationsPath, Optional: true, MaxSilence: silence}
	default:
		o.Revocations = verify.RevocationOptions{URL: value, MaxSilence: silence}
	}
	return nil
}

// protected says whether nobody between can answer in the place of a URL.
func protected(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// registerRevocationMetrics shows how a verifier stands with what its issuer
// says has ended.
func registerRevocationMetrics(reg prometheus.Registerer, v *verify.Verifier) {
	if !v.Stats().Revocations.Followed {
		return
	}
	gauge := func(name, help string, value func(verify.RevocationStats) float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "urbandata_revocations_" + name, Help: help},
			func() float64 { return value(v.Stats().Revocations) }))
	}
	counter := func(name, help string, value func(verify.RevocationStats) uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "urbandata_revocations_" + name, Help: help},
			func() float64 { return float64(value(v.Stats().Revocations)) }))
	}
	flag := func(yes bool) float64 {
		if yes {
			return 1
		}
		return 0
	}
	gauge("held", "Ended sessions, users, clients and tokens that this verifier refuses.", func(s verify.RevocationStats) float64 { return float64(s.Entries) })
	gauge("held_sequence", "Place up to which this verifier holds the issuer's revocations.", func(s verify.RevocationStats) float64 { return float64(s.Sequence) })
	gauge("heard_age_seconds", "Time since the issuer's last word on what has ended.", func(s verify.RevocationStats) float64 { return s.Age.Seconds() })
	gauge("streaming", "1 while news come as they happen, 0 while the list is fetched now and then.", func(s verify.RevocationStats) float64 { return flag(s.Streaming) })
	gauge("absent", "1 if the issuer publishes no revocations.", func(s verify.RevocationStats) float64 { return flag(s.Absent) })
	gauge("usable", "0 while tokens are refused because the issuer was silent for too long.", func(s verify.RevocationStats) float64 { return flag(s.Usable) })
	counter("failures_total", "Attempts to follow the revocations that ended in an error, ends of streams among them.", func(s verify.RevocationStats) uint64 { return s.Failures })
	counter("gaps_total", "News that followed upon something this verifier did not hold, so that it fetched the whole list.", func(s verify.RevocationStats) uint64 { return s.Gaps })
}
