package alerts

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/teststorage"
)

const root = "../.."

// series is a time series: its labels, and its value at a time after the
// scrape. ok is false where there is no sample.
type series struct {
	labels map[string]string
	value  func(after time.Duration) (v float64, ok bool)
}

func constant(v float64) func(time.Duration) (float64, bool) {
	return func(time.Duration) (float64, bool) { return v, true }
}

// rising is a counter that grows by one in each period.
func rising(period time.Duration) func(time.Duration) (float64, bool) {
	return func(after time.Duration) (float64, bool) { return float64(after / period), true }
}

func ruleFile(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(filepath.Join(root, "docs/prometheus-rules.yaml"), false, model.UTF8Validation,
		parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatalf("Prometheus refuses the rules: %v", errors.Join(errs...))
	}
	var all []rulefmt.Rule
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// scrape starts the program, sends it a few requests, and returns what it
// serves at /metrics, and when.
func scrape(t *testing.T) (found []series, at time.Time) {
	t.Helper()
	folder := t.TempDir()
	binary := filepath.Join(folder, "urbandata")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, binary, "up", "--auth-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0",
		"--metrics-listen", "127.0.0.1:0", "--data-dir", filepath.Join(folder, "data"))
	cmd.Env = []string{"HOME=" + folder}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // test/docs looks at how it ends
	})
	var authn, inmuebles, metrics string
	for lines := bufio.NewScanner(stdout); metrics == "" && lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 1 && f[0] == "authn" {
			authn = f[1]
		} else if len(f) > 1 && f[0] == "inmuebles" {
			inmuebles, metrics = f[1], f[len(f)-1]
		}
	}
	for _, u := range []string{authn + "/.well-known/jwks.json", authn + "/authn/me", inmuebles + "/inmuebles"} {
		get(t, u)
	}
	// The stand-bys are made with the first tick after the start.
	body, tick := get(t, metrics), time.NewTicker(200*time.Millisecond)
	defer tick.Stop()
	for strings.Contains(string(body), `state="announced"} 0`) {
		select {
		case <-tick.C:
			body = get(t, metrics)
		case <-ctx.Done():
			t.Fatal("no key stands by")
		}
	}
	at = time.Now()
	p, err := textparse.New(body, "text/plain", nil, textparse.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		var l labels.Labels
		p.Labels(&l)
		_, _, v := p.Series()
		name := l.Get("__name__")
		if !strings.HasPrefix(name, "urbandata_") {
			continue
		}
		m := l.Map()
		m["instance"], m["job"] = "a:9000", "urbandata"
		s := series{m, constant(v)}
		switch name {
		case "urbandata_keys_ring_read_timestamp_seconds", "urbandata_revocations_read_timestamp_seconds": // read again and again
			s.value = func(after time.Duration) (float64, bool) { return v + after.Seconds(), true }
		case "urbandata_keys_next_transition_timestamp_seconds": // far enough for the longest alert
			s.value = constant(v + 30*24*3600)
		}
		found = append(found, s)
	}
	if len(found) < 50 {
		t.Fatalf("only %d series were scraped", len(found))
	}
	return found, at
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// fires evaluates a rule as Prometheus does, again and again for longer than
// its "for", on a world, and reports whether it fires in the end.
func fires(t *testing.T, rule *rulefmt.Rule, world []series, from time.Time) bool {
	t.Helper()
	hold := time.Duration(rule.For)
	const least = 12 * time.Minute // of history, for increase[10m]
	total := max(hold+hold/10, hold+least)
	if strings.Contains(rule.Expr, "[1h]") {
		total += time.Hour
	}
	step := max(30*time.Second, total/200)
	store := teststorage.New(t)
	for after := time.Duration(0); after <= total; after += step {
		app := store.Appender(t.Context())
		for _, s := range world {
			if v, ok := s.value(after); ok {
				if _, err := app.Append(0, labels.FromMap(s.labels), from.Add(after).UnixMilli(), v); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	engine := promqltest.NewTestEngine(t, false, 3*step, 1_000_000)
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(rule.Expr)
	if err != nil {
		t.Fatal(err)
	}
	r := rules.NewAlertingRule(rule.Alert, expr, hold, 0, labels.FromMap(rule.Labels), labels.FromMap(rule.Annotations), labels.EmptyLabels(), "", true, slog.New(slog.DiscardHandler))
	for after := time.Duration(0); after <= total; after += step {
		if _, err := r.Eval(t.Context(), 0, from.Add(after), rules.EngineQueryFunc(engine, store), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	firing := false
	for _, a := range r.ActiveAlerts() { // State says nothing outside of a group
		firing = firing || a.State == rules.StateFiring
		for name, text := range a.Annotations.Map() {
			if strings.Contains(text, "<error") || strings.Contains(text, "{{") {
				t.Errorf("%s: the annotation %s came out as %q", rule.Alert, name, text)
			}
		}
	}
	return firing
}

// change returns the world with another value for the series of a name whose
// labels match.
func change(world []series, name string, match map[string]string, value func(time.Duration) (float64, bool)) []series {
	out, hit := slices.Clone(world), false
	for i := range out {
		if out[i].labels["__name__"] != name {
			continue
		}
		fits := true
		for k, v := range match {
			fits = fits && out[i].labels[k] == v
		}
		if fits {
			out[i].value, hit = value, true
		}
	}
	if !hit {
		l := maps.Clone(match)
		if l == nil {
			l = map[string]string{}
		}
		l["__name__"], l["instance"] = name, "a:9000"
		out = append(out, series{l, value})
	}
	return out
}

func TestAlerts(t *testing.T) {
	world, from := scrape(t)
	at := float64(from.Unix())
	jwks := map[string]string{"service": "authn", "route": "/.well-known/jwks.json"}
	// What each alert is for, made to happen.
	cases := map[string]func() []series{
		"UrbandataRingOld": func() []series {
			return change(world, "urbandata_keys_ring_read_timestamp_seconds", nil, constant(at))
		},
		"UrbandataTicksFail": func() []series {
			return change(world, "urbandata_keys_tick_failures_total", nil, rising(time.Minute))
		},
		"UrbandataRingsDiffer": func() []series {
			return append(slices.Clone(world), series{map[string]string{"__name__": "urbandata_keys_ring_version", "instance": "b:9000"}, constant(1e6)})
		},
		"UrbandataNoSigningKey": func() []series {
			without := change(world, "urbandata_keys_ring_keys", map[string]string{"alg": "EdDSA", "state": "signing"}, constant(0))
			return change(without, "urbandata_keys_ring_keys", map[string]string{"alg": "EdDSA", "state": "announced"}, constant(0))
		},
		"UrbandataNoStandbyKey": func() []series {
			return change(world, "urbandata_keys_ring_keys", map[string]string{"alg": "RS256", "state": "announced"}, constant(0))
		},
		"UrbandataRotationOverdue": func() []series {
			return change(world, "urbandata_keys_next_transition_timestamp_seconds", map[string]string{"alg": "RS256"}, constant(at-60))
		},
		"UrbandataRotationHeld": func() []series { return change(world, "urbandata_keys_held_rotations", nil, constant(1)) },
		"UrbandataSigningKeyOld": func() []series {
			return change(world, "urbandata_keys_signing_since_timestamp_seconds", map[string]string{"alg": "EdDSA"}, constant(at-46*24*3600))
		},
		"UrbandataClockOff": func() []series { return change(world, "urbandata_keys_clock_offset_seconds", nil, constant(-6)) },
		"UrbandataSealingKeyUnfinished": func() []series {
			return change(world, "urbandata_keys_sealed", map[string]string{"by": "0123456789abcdef"}, constant(1))
		},
		"UrbandataJWKSSlow": func() []series {
			slow := world
			for _, le := range []string{"0.1", "0.25", "0.5", "1.0", "+Inf"} {
				match := maps.Clone(jwks)
				match["le"] = le
				grows := rising(time.Second) // all of them take between a quarter and half a second
				if le == "0.1" || le == "0.25" {
					grows = constant(0)
				}
				slow = change(slow, "urbandata_http_request_seconds_bucket", match, grows)
			}
			return slow
		},
		"UrbandataJWKSFails": func() []series {
			match := maps.Clone(jwks)
			match["status"], match["method"] = "503", "GET"
			return change(world, "urbandata_http_requests_total", match, rising(time.Minute))
		},
		"UrbandataPanics": func() []series {
			return change(world, "urbandata_http_panics_total", map[string]string{"service": "authn"}, rising(5*time.Minute))
		},
		"UrbandataRefreshTokensReused": func() []series {
			return change(world, "urbandata_grants_total", map[string]string{"grant": "refresh", "outcome": "reused"}, rising(5*time.Minute))
		},
		"UrbandataRevocationsOld": func() []series {
			return change(world, "urbandata_revocations_read_timestamp_seconds", nil, constant(at))
		},
		"UrbandataRevocationsSilent": func() []series {
			return change(world, "urbandata_revocations_heard_age_seconds", nil, constant(31))
		},
		"UrbandataTokensRefused": func() []series { return change(world, "urbandata_revocations_usable", nil, constant(0)) },
		"UrbandataRevocationsNotStreamed": func() []series {
			return change(world, "urbandata_revocations_streaming", nil, constant(0))
		},
		"UrbandataKeySetOld": func() []series { return change(world, "urbandata_keyset_age_seconds", nil, constant(1000)) },
	}
	all := ruleFile(t)
	if len(all) != len(cases) {
		t.Errorf("there are %d alerts and %d cases", len(all), len(cases))
	}
	for i := range all {
		rule := &all[i]
		t.Run(rule.Alert, func(t *testing.T) {
			if fires(t, rule, world, from) {
				t.Error("it fires on a healthy system")
			}
			happens := cases[rule.Alert]
			if happens == nil {
				t.Fatal("nothing makes it fire")
			}
			if !fires(t, rule, happens(), from) {
				t.Error("it doesn't fire when it should")
			}
		})
	}
	t.Run("what they name is served", func(t *testing.T) { named(t, all, world) })
}

// named makes sure that every metric and label in the rules is one that the
// program serves: an alert on a name that is gone never fires.
func named(t *testing.T, all []rulefmt.Rule, world []series) {
	has := map[string]map[string]bool{} // metric → labels
	for _, s := range world {
		name := s.labels["__name__"]
		if has[name] == nil {
			has[name] = map[string]bool{}
		}
		for l := range s.labels {
			has[name][l] = true
		}
	}
	source, err := os.ReadFile(filepath.Join(root, "authserver/authserver.go"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(all[i].Expr)
		if err != nil {
			t.Fatal(err)
		}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			v, ok := n.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			// Label values that no healthy system has leave a vector of
			// counters without series: those are looked up in the source.
			if has[v.Name] == nil && !regexp.MustCompile(`Name: "`+regexp.QuoteMeta(v.Name)+`"`).Match(source) {
				t.Errorf("%s: there is no metric %s", all[i].Alert, v.Name)
			}
			for _, m := range v.LabelMatchers {
				if has[v.Name] != nil && !has[v.Name][m.Name] {
					t.Errorf("%s: %s has no label %s", all[i].Alert, v.Name, m.Name)
				}
			}
			return nil
		})
	}
}
