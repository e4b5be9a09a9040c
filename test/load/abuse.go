//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// An abuse is what somebody does to wear a service down. It strikes services of
// its own, fresh ones with the limits that they have by default, on the
// databases of the others; what the rest of the clients notice is measured by
// turns, with it and without.
type abuse struct {
	name   string
	strike func(ctx context.Context, v *victims, r *report, d time.Duration) error
}

var abuses = []abuse{
	{"connections", strikeIdle},
	{"flood", strikeFlood},
	{"slow", strikeSlow},
}

// figure is what an abuse showed.
type figure struct {
	Name     string  `json:"name"`
	Measured float64 `json:"measured"`
	Without  float64 `json:"without,omitempty"` // the abuse
	Unit     string  `json:"unit"`
}

// victims are the services that are struck.
type victims struct {
	*clients
	authn, inmuebles *service
}

// wantedAbuses are those with these names, and the names that are left.
func wantedAbuses(names string) (some []abuse, rest string) {
	if names == "" {
		return abuses, ""
	}
	var others []string
	for name := range strings.SplitSeq(names, ",") {
		if i := slices.IndexFunc(abuses, func(a abuse) bool { return a.name == strings.TrimSpace(name) }); i >= 0 {
			some = append(some, abuses[i])
		} else {
			others = append(others, name)
		}
	}
	return some, strings.Join(others, ",")
}

// suffer has each abuse strike.
func (c *clients) suffer(ctx context.Context, r *report, abuses []abuse, d time.Duration) error {
	for _, a := range abuses {
		if err := c.sufferOne(ctx, r, a, d); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return nil
}

func (c *clients) sufferOne(ctx context.Context, r *report, a abuse, d time.Duration) (err error) {
	v := &victims{clients: c}
	defer func() {
		for _, s := range []*service{v.authn, v.inmuebles} {
			if s != nil {
				s.process.End(syscall.SIGTERM)
			}
		}
	}()
	// One that forwards may say which address each of its clients has, so that
	// no network meets its limit.
	if v.authn, err = c.launch(ctx, "authn-"+a.name, []string{
		"authserver", "--listen", "127.0.0.1:0", "--issuer", issuer, "--drain-delay", "0s", "--trusted-proxies", "127.0.0.0/8", "--token-life", "30m",
	}); err != nil {
		return err
	}
	if v.inmuebles, err = c.launch(ctx, "inmuebles-"+a.name, []string{
		"resourceserver", "--listen", "127.0.0.1:0", "--issuer", issuer, "--jwks-url", v.authn.url + "/.well-known/jwks.json", "--drain-delay", "0s",
	}); err != nil {
		return err
	}
	for _, s := range []*service{v.authn, v.inmuebles} {
		if err := c.ready(ctx, s); err != nil {
			return err
		}
	}
	return a.strike(ctx, v, r, d)
}

// kind is which service it is, whatever it is launched for.
func (s *service) kind() string {
	kind, _, _ := strings.Cut(s.name, "-")
	return kind
}

// refresh is [clients.refresh] at a struck service.
func (v *victims) refresh(ctx context.Context, _ int) error {
	return v.refreshAt(ctx, v.authn.url)
}

// bystander is somebody who goes on asking meanwhile.
type bystander struct {
	name            string
	call            call
	perSecond       float64
	promised        bool // that p99 is not more than twice as long
	quiet, stricken outcome
}

// beside measures bystanders by turns: without the abuse, and with it, which
// lasts for as long as its context and gets ready for a while.
func beside(ctx context.Context, turns int, quiet, ready, stricken time.Duration, bystanders []*bystander, strike func(context.Context) error) error {
	for _, b := range bystanders { // connections and statements are made
		if err := closed(ctx, b.call, 8, 100*time.Millisecond).err(b.name); err != nil {
			return err
		}
	}
	for range turns {
		if err := together(ctx, quiet, bystanders, func(b *bystander) *outcome { return &b.quiet }); err != nil {
			return err
		}
		striking, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- strike(striking) }()
		wait(ctx, ready)
		err := together(ctx, stricken, bystanders, func(b *bystander) *outcome { return &b.stricken })
		stop()
		if err := errors.Join(err, <-ended); err != nil {
			return err
		}
	}
	return nil
}

// together has all bystanders ask at the same time.
func together(ctx context.Context, d time.Duration, bystanders []*bystander, to func(*bystander) *outcome) error {
	outcomes := make(chan *outcome, len(bystanders))
	for _, b := range bystanders {
		go func() {
			out := open(ctx, b.call, b.perSecond, d)
			to(b).merge(out)
			outcomes <- out
		}()
	}
	var errs []error
	for range bystanders {
		errs = append(errs, (<-outcomes).err("somebody beside"))
	}
	return errors.Join(errs...)
}

// beside says how much longer the bystanders waited.
func (r *report) beside(what string, bystanders []*bystander) {
	for _, b := range bystanders {
		quiet, stricken := latencyOf(&b.quiet), latencyOf(&b.stricken)
		r.found(fmt.Sprintf("%s, p50, %s", b.name, what), stricken.P50, quiet.P50, "ms")
		r.found(fmt.Sprintf("%s, p99, %s", b.name, what), stricken.P99, quiet.P99, "ms")
		if b.promised {
			r.promise(fmt.Sprintf("%s p99, %s", b.name, what), "× without", stricken.P99/quiet.P99, 2, false)
		}
	}
}

func (r *report) found(name string, measured, without float64, unit string) {
	r.Abuse = append(r.Abuse, figure{name, measured, without, unit})
}

// abused is the table of abuses.
func (r *report) abused() string {
	if len(r.Abuse) == 0 {
		return ""
	}
	var t table
	t.row("under abuse", "", "without", "")
	for _, f := range r.Abuse {
		t.row(f.Name, digits(f.Measured), digits(f.Without), f.Unit)
	}
	return t.String()
}

// mostFiles is how many file handles this program can still open.
func mostFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(uint64(limit.Cur), 1<<20)) - files(os.Getpid()) - 100
}
