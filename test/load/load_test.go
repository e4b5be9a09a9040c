//go:build unix

package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestOpen: a service that stands still for a second shows in the latency of
// all that were due in it, not of one.
func TestOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		out := open(t.Context(), func(context.Context, int) error {
			if now := time.Since(began); now >= time.Second && now < 2*time.Second {
				time.Sleep(2*time.Second - now) // the clock is synctest's
			}
			return nil
		}, 100, 4*time.Second)
		if err := out.err("open"); err != nil {
			t.Fatal(err)
		}
		if got := len(out.latencies); got != 400 {
			t.Errorf("%d answers, want 400", got)
		}
		for share, want := range map[float64]time.Duration{0.5: 0, 0.75: 0, 0.875: 500 * time.Millisecond, 1: time.Second} {
			if got := out.percentile(share); got != want {
				t.Errorf("percentile %v is %v, want %v", share, got, want)
			}
		}
		if out.took != 3990*time.Millisecond {
			t.Errorf("it took %v", out.took)
		}
	})
}

// TestOpenBehind: a service that never answers isn't followed for ever.
func TestOpenBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var most, now atomic.Int64
		out := open(t.Context(), func(context.Context, int) error {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(time.Hour)
			now.Add(-1)
			return nil
		}, 100_000, time.Second)
		if !errors.Is(out.err("open"), errBehind) {
			t.Errorf("got %v, want %v", out.first, errBehind)
		}
		if most.Load() > mostUnderWay {
			t.Errorf("%d were under way, want at most %d", most.Load(), mostUnderWay)
		}
	})
}

// TestClosed: clients wait for their answers, and those under way at the end
// are waited for.
func TestClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		out := closed(t.Context(), func(context.Context, int) error {
			time.Sleep(300 * time.Millisecond)
			return nil
		}, 4, time.Second)
		if got := len(out.latencies); got != 16 || out.took != 1200*time.Millisecond {
			t.Errorf("%d answers in %v, want 16 in 1.2 s", got, out.took)
		}
		failure := errors.New("no")
		out = closed(t.Context(), func(context.Context, int) error {
			time.Sleep(time.Second)
			return failure
		}, 1, time.Second)
		if !errors.Is(out.err("closed"), failure) {
			t.Errorf("got %v, want %v", out.err("closed"), failure)
		}
	})
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	out := &outcome{}
	if got := out.percentile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for i := range 1000 {
		out.merge(&outcome{latencies: []time.Duration{time.Duration(1000 - i)}, took: time.Millisecond})
	}
	for share, want := range map[float64]time.Duration{0: 1, 0.001: 1, 0.5: 500, 0.99: 990, 0.999: 999, 1: 1000} {
		if got := out.percentile(share); got != want {
			t.Errorf("percentile %v is %d, want %d", share, got, want)
		}
	}
	if got := out.perSecond(); got != 1000 {
		t.Errorf("%v a second, want 1000", got)
	}
}

func TestPromise(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		measured, target float64
		least, ok        bool
	}{
		{1, 1.05, false, true},
		{1.15, 1.05, false, true},
		{1.2, 1.05, false, false},
		{3000, 3000, true, true},
		{2750, 3000, true, true},
		{2600, 3000, true, false},
	} {
		var r report
		r.promise("p", "", tc.measured, tc.target, tc.least)
		if got := r.Promises[0].OK; got != tc.ok || r.kept() != tc.ok {
			t.Errorf("%v for %v (least %v): %v, want %v", tc.measured, tc.target, tc.least, got, tc.ok)
		}
	}
}

// TestPromisedExist: a promise about an operation that isn't measured would
// always be kept.
func TestPromisedExist(t *testing.T) {
	t.Parallel()
	c := &clients{system: &system{authn: &service{}, inmuebles: &service{}, floor: &service{}}}
	names := map[string]bool{}
	for _, o := range c.operations() {
		names[o.name] = true
	}
	for _, p := range promised {
		if !names[p.operation] {
			t.Errorf("there is no operation %q", p.operation)
		}
	}
	for name := range mix {
		if !names[name] {
			t.Errorf("the soak has no operation %q", name)
		}
	}
}

func TestJudgeSeries(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		values []float64
		growth float64
		ok     bool
	}{
		{"flat after the start", []float64{1, 5, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10}, 1, true},
		{"a peak", []float64{10, 10, 10, 10, 10, 10, 10, 10, 99, 10, 10, 10}, 1, true},
		{"grows", []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 2.2, false},
		{"too short to say", []float64{1, 2, 3}, 0, false},
	} {
		s := &series{Values: tc.values, most: mostGauge}
		s.judge()
		if s.Growth != tc.growth || s.OK != tc.ok {
			t.Errorf("%s: %v, %v; want %v, %v", tc.name, s.Growth, s.OK, tc.growth, tc.ok)
		}
	}
}

func TestSoakPolicy(t *testing.T) {
	t.Parallel()
	p := soakPolicy()
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	if p.RotationPeriod > 75*time.Second {
		t.Errorf("keys rotate every %v only", p.RotationPeriod)
	}
}

func TestFill(t *testing.T) {
	t.Parallel()
	const page = "a\n<!-- load: costs -->\n\nold\n<!-- end -->\nb\n<!-- load: waits -->\n<!-- end -->\nc\n"
	got, err := fill([]byte(page), map[string]string{"costs": "new\n", "waits": "more\n"})
	if err != nil {
		t.Fatal(err)
	}
	const want = "a\n<!-- load: costs -->\n\nnew\n\n<!-- end -->\nb\n<!-- load: waits -->\n\nmore\n\n<!-- end -->\nc\n"
	if string(got) != want {
		t.Errorf("got %q", got)
	}
	if again, err := fill(got, map[string]string{"costs": "new\n"}); err != nil || string(again) != want {
		t.Errorf("again: %q, %v", again, err)
	}
	for _, bad := range []string{"", "<!-- load: costs -->\n", "<!-- end -->"} {
		if _, err := fill([]byte(bad), map[string]string{"costs": "x"}); err == nil {
			t.Errorf("%q was filled", bad)
		}
	}
}

func TestDigits(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "–", 0.1234: "0.123", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 12345: "12345"} {
		if got := digits(v); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
}

// TestProc: what the kernel says of this process, and of one that has ended.
func TestProc(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		if resident(os.Getpid()) != 0 || readStat(os.Getpid()) != (stat{}) {
			t.Error("there is no /proc, and yet it says something")
		}
		return
	}
	pid := os.Getpid()
	before := family(pid)
	began, spent := readStat(pid).cpu, 0
	for readStat(pid).cpu < began+3*tick {
		spent++
	}
	t.Logf("%d looks cost %v", spent, 3*tick)
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if after := family(pid); after < before+4*tick {
		t.Errorf("family: %v after %v", after, before)
	}
	s := readStat(pid)
	if s.parent != os.Getppid() || s.threads < 2 || s.childrens == 0 {
		t.Errorf("stat: %+v", s)
	}
	if got := resident(pid); got < 1<<20 {
		t.Errorf("resident: %d bytes", got)
	}
	if got := files(pid); got < 3 {
		t.Errorf("%d file handles", got)
	}
	if name := command(pid); !strings.HasPrefix("load.test", name) && !strings.HasPrefix(name, "load.test") {
		t.Errorf("command: %s", name)
	}
	if s := readStat(1 << 30); s != (stat{}) {
		t.Errorf("of a process that there isn't: %+v", s)
	}
}

// TestPlots: a run of two operations, one without a database, can be drawn.
func TestPlots(t *testing.T) {
	t.Parallel()
	one := func(v float64) figures {
		return figures{PerSecond: v, CPU: 1 / v, DatabaseCPU: 1 / v, Quiet: latency{v, 2 * v, 3 * v}}
	}
	jwks := one(2)
	jwks.DatabaseCPU = 0
	r := &report{Operations: []*result{{Name: "refresh", Ours: one(1), Floor: one(2)}, {Name: "JWKS", Ours: jwks, Floor: jwks}}}
	r.judge()
	folder := t.TempDir()
	if err := r.write(t.Output(), folder, ""); err != nil {
		t.Fatal(err)
	}
	s := &soaked{Minutes: 1, Requests: map[string]int{"get": 1}, Series: []*series{
		{Name: "get, p99", Unit: "ms", Values: []float64{1, 2, 3, 4}},
		{Name: "authn, memory", Unit: "MB", Values: []float64{1, 2, 3, 4}},
	}}
	if err := s.write(t.Output(), folder, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"load.json", "costs.svg", "waits.svg", "soak.json", "soak-memory.svg", "soak-p99.svg"} {
		if info, err := os.Stat(folder + "/" + name); err != nil || info.Size() < 100 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// TestBeside: who asks beside an abuse is measured without it and with it, and
// the abuse ends with each turn.
func TestBeside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var striking, strikes atomic.Int64
		b := &bystander{name: "b", perSecond: 10, promised: true, call: func(context.Context, int) error {
			time.Sleep(time.Millisecond * time.Duration(1+4*striking.Load()))
			return nil
		}}
		err := beside(t.Context(), 2, time.Second, 3*time.Second, 2*time.Second, []*bystander{b}, func(ctx context.Context) error {
			strikes.Add(1)
			striking.Store(1)
			<-ctx.Done()
			striking.Store(0)
			return nil
		})
		if err != nil || strikes.Load() != 2 {
			t.Fatalf("%d strikes, %v", strikes.Load(), err)
		}
		if q, s := len(b.quiet.latencies), len(b.stricken.latencies); q != 20 || s != 40 {
			t.Errorf("%d without and %d with, want 20 and 40", q, s)
		}
		var r report
		r.beside("in a test", []*bystander{b})
		if len(r.Promises) != 1 || r.Promises[0].Measured != 5 || r.Promises[0].OK {
			t.Errorf("promised: %+v, want 5 times, missed", r.Promises)
		}
		if want := "| b, p99, in a test | 5.00 | 1.00    | ms |"; !strings.Contains(r.abused(), want) {
			t.Errorf("the table is\n%swant\n%s", r.abused(), want)
		}
		failure := errors.New("no")
		err = beside(t.Context(), 2, time.Second, 0, time.Second, []*bystander{b}, func(context.Context) error { return failure })
		if !errors.Is(err, failure) {
			t.Errorf("got %v, want %v", err, failure)
		}
	})
}

func TestWantedAbuses(t *testing.T) {
	for _, tc := range []struct {
		only, rest string
		n          int
	}{{"", "", len(abuses)}, {"flood", "", 1}, {"refresh, slow,get", "refresh,get", 1}, {"refresh", "refresh", 0}} {
		if some, rest := wantedAbuses(tc.only); len(some) != tc.n || rest != tc.rest {
			t.Errorf("%q: %d and %q, want %d and %q", tc.only, len(some), rest, tc.n, tc.rest)
		}
	}
}
