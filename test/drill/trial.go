//go:build unix

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/token"
)

// audiences have a token of each algorithm.
var audiences = map[jose.SignatureAlgorithm]string{jose.RS256: "drill-rs256", jose.EdDSA: "drill-eddsa"}

// trial shows tokens to victims and keeps the score.
type trial struct {
	options
	policy  keys.Policy
	cluster *cluster
	victims []*victim
	began   time.Time

	sessions []*session
	shows    sync.WaitGroup // tokens that are still being shown

	mu         sync.Mutex // guards what follows, and the victims' scores
	minted     int
	mintErrors int
	revoked    map[string]time.Time // kid → when the revocation was stored
	complaints []string
	kills      int
	restarts   int
}

// score is what a victim did.
type score struct {
	good, goodRefused     int // verdicts on tokens that were good from question to answer
	bad, badTaken         int // on forged and expired ones
	stolen                int // on those of the thief, past the bound or not
	lastTaken, firstAsked time.Time
	stolenTakenLate       int
}

func newTrial(o options, policy keys.Policy, c *cluster) *trial {
	return &trial{options: o, policy: policy, cluster: c, revoked: map[string]time.Time{}}
}

// session is a login that goes on refreshing.
type session struct {
	alg      jose.SignatureAlgorithm
	audience string
	refresh  string
}

type tokens struct {
	Access    string `json:"access"`
	Refresh   string `json:"refresh"`
	ExpiresIn int    `json:"expires_in"`
}

const email, password = "drill@example.org", "three replicas and one wrong clock"

// logIn makes the user and a few sessions of each algorithm.
func (t *trial) logIn(ctx context.Context) error {
	if err := t.cluster.makeAdministrator(ctx); err != nil {
		return err
	}
	if _, err := t.cluster.post(ctx, "/authn/register", map[string]string{"email": email, "password": password}, nil); err != nil {
		return fmt.Errorf("make a user: %w", err)
	}
	for alg, audience := range audiences {
		for range 2 {
			s := &session{alg: alg, audience: audience}
			if err := t.login(ctx, s); err != nil {
				return err
			}
			t.sessions = append(t.sessions, s)
		}
	}
	return nil
}

func (t *trial) login(ctx context.Context, s *session) error {
	var got tokens
	if _, err := t.cluster.post(ctx, "/authn/token", map[string]string{"email": email, "password": password, "audience": s.audience}, &got); err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	s.refresh = got.Refresh
	return nil
}

// run is the trial itself.
func (t *trial) run(ctx context.Context) error {
	t.began = time.Now()
	minting, stop := context.WithTimeout(ctx, t.length)
	defer stop()
	var wg sync.WaitGroup
	for _, s := range t.sessions {
		wg.Go(func() { t.mint(minting, ctx, s) })
	}
	if t.flood {
		wg.Go(func() { t.forge(minting) })
	}
	wg.Go(func() { t.disturb(minting) })
	wg.Go(func() { t.rotate(minting) })
	errs := make(chan error, 2)
	wg.Go(func() { errs <- t.restartDatabase(minting) })
	wg.Go(func() { errs <- t.steal(minting) })
	wg.Wait()
	t.shows.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted before it was done")
	}
	return errors.Join(<-errs, <-errs)
}

// mint refreshes a session again and again; each time there is a new token.
func (t *trial) mint(minting, showing context.Context, s *session) {
	every := time.Second * time.Duration(len(t.sessions)) / time.Duration(t.rate)
	for pause(minting, every/2+mathrand.N(every)) { //nolint:gosec // spreads requests
		var got tokens
		status, err := t.cluster.post(minting, "/authn/token/refresh", map[string]string{"refresh": s.refresh}, &got)
		if err != nil {
			if minting.Err() != nil {
				return
			}
			t.mu.Lock()
			t.mintErrors++
			t.mu.Unlock()
			if status == 401 { // the answer with the next refresh token was lost for too long
				err = t.login(minting, s)
			}
			t.note("a token couldn't be had: %v", err)
			continue
		}
		s.refresh = got.Refresh
		t.mu.Lock()
		t.minted++
		t.mu.Unlock()
		t.shows.Go(func() { t.show(showing, s, got.Access) })
	}
}

// show shows a token to every victim for all its life, and when it is over.
func (t *trial) show(ctx context.Context, s *session, text string) {
	var claims token.Claims
	if err := decodePayload(text, &claims); err != nil {
		t.complain("a token can't be read: %v", err)
		return
	}
	kid, end := kidOf(text), claims.ExpiresAt()
	const shows = 5
	step := time.Until(end) / shows
	for i := range shows {
		for _, v := range t.victims {
			if s.alg == jose.EdDSA && !v.eddsa {
				continue
			}
			v.ask(s.audience, text, func(answer verdict) { t.judge(v, kid, end, answer, fmt.Sprintf("show %d of %d", i+1, shows)) })
		}
		if !pause(ctx, step) {
			return
		}
	}
	// Expired: whoever takes it now goes beyond any leeway. A token that a
	// replica with a wrong clock made ends by that clock; exp is what counts.
	if !pause(ctx, time.Until(end)+max(t.policy.Leeway, 60*time.Second/time.Duration(t.scale))+time.Second) {
		return
	}
	for _, v := range t.victims {
		if s.alg != jose.EdDSA || v.eddsa {
			v.ask(s.audience, text, func(answer verdict) { t.judgeBad(v, "an expired token", answer) })
		}
	}
}

// judge counts a verdict on a token that ends at end.
func (t *trial) judge(v *victim, kid string, end time.Time, answer verdict, when string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	revokedAt, revoked := t.revoked[kid]
	switch {
	case revoked && answer.at.After(revokedAt) && !answer.ok:
		return // as it should be
	case revoked && answer.ok && answer.at.Sub(revokedAt) > bound(t.policy):
		v.score.stolenTakenLate++
		return
	case !answer.at.Before(end.Add(-100 * time.Millisecond)):
		return // it may have expired on the way
	}
	v.score.good++
	if !answer.ok {
		v.score.goodRefused++
		t.complaints = append(t.complaints, fmt.Sprintf("%6.2fs %s refused a good token of %.8s (%s, %v to live): %s",
			answer.at.Sub(t.began).Seconds(), v.name, kid, when, end.Sub(answer.at).Round(time.Millisecond), answer.reason))
	}
}

func (t *trial) judgeBad(v *victim, what string, answer verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v.score.bad++
	if answer.ok {
		v.score.badTaken++
		t.complaints = append(t.complaints, fmt.Sprintf("%6.2fs %s took %s", answer.at.Sub(t.began).Seconds(), v.name, what))
	}
}

func decodePayload(text string, into any) error {
	part := strings.Split(text, ".")
	if len(part) != 3 {
		return errors.New("it doesn't have three parts")
	}
	raw, err := decode64(part[1])
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// claims are good in every respect.
func (t *trial) claims(audience string) []byte {
	now := time.Now()
	raw, err := json.Marshal(token.Claims{
		Issuer: t.cluster.url, Subject: "thief", Audience: token.Audience{audience}, ClientID: "urbandata",
		Expiry: now.Add(t.policy.TokenLife).Unix() + 1, IssuedAt: now.Unix() - 5, ID: uuid.NewString(), Scope: token.Scope{token.ScopeInmueblesRead},
	})
	if err != nil { // plain values
		panic(err)
	}
	return raw
}

// forge shows the victims tokens that nobody may take, most of them with kids
// that don't exist: each is a wish to fetch the keys again.
func (t *trial) forge(ctx context.Context) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.complain("no key to forge with: %v", err)
		return
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.complain("no key to forge with: %v", err)
		return
	}
	for n := 0; pause(ctx, 250*time.Millisecond); n++ {
		for _, v := range t.victims {
			alg, key := jose.RS256, any(rsaKey)
			if n%2 == 1 && v.eddsa {
				alg, key = jose.EdDSA, edKey
			}
			what, kid := "a token with a made-up kid", madeUpKid()
			if ring := t.cluster.keeper.Ring(); n%8 == 7 && ring.Signing(alg) != nil {
				what, kid = "a token that the kid's key didn't sign", ring.Signing(alg).ID
			}
			signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key},
				(&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", kid))
			if err != nil {
				t.complain("forge: %v", err)
				return
			}
			jws, err := signer.Sign(t.claims(audiences[alg]))
			if err != nil {
				t.complain("forge: %v", err)
				return
			}
			text, err := jws.CompactSerialize()
			if err != nil {
				t.complain("forge: %v", err)
				return
			}
			v.ask(audiences[alg], text, func(answer verdict) { t.judgeBad(v, what, answer) })
		}
	}
}

// disturb kills replicas, one at a time, and lets them come back.
func (t *trial) disturb(ctx context.Context) {
	every := max(t.length/10, 4*time.Second)
	for pause(ctx, every/2+mathrand.N(every)) { //nolint:gosec // a drill, no secret
		r := t.cluster.replicas[mathrand.N(replicas)] //nolint:gosec // the same
		r.kill()
		t.note("%s killed", r.name)
		t.mu.Lock()
		t.kills++
		t.mu.Unlock()
		pause(ctx, time.Second)
		// It starts even when the time is over, and while the database is
		// away it can't: then it is tried again, as a supervisor would.
		for ctx.Err() == nil {
			if err := r.start(ctx); err == nil {
				break
			}
			pause(ctx, 200*time.Millisecond)
		}
	}
}

// restartDatabase does so once, in the middle.
func (t *trial) restartDatabase(ctx context.Context) error {
	if !pause(ctx, t.length*45/100) {
		return nil
	}
	t.note("PostgreSQL restarts")
	if err := t.cluster.db.restart(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("restart PostgreSQL: %w", err)
	}
	t.mu.Lock()
	t.restarts++
	t.mu.Unlock()
	t.note("PostgreSQL is back")
	return nil
}

// rotate asks, over HTTP, for rotations besides those by schedule: of RS256 as soon as the
// stand-by may sign, of EdDSA in an emergency once one is ready. It leaves the
// ring alone around the theft, which needs a stand-by that everybody holds.
func (t *trial) rotate(ctx context.Context) {
	every := max(t.length/20, 2*time.Second)
	for n := 0; pause(ctx, every); n++ {
		if err := t.cluster.keeper.Tick(ctx); err != nil {
			t.note("the ring can't be read: %v", err)
			continue
		}
		if at := time.Since(t.began); at > t.length/4 && at < t.length*70/100 {
			continue
		}
		if err := t.cluster.manage(ctx, "rotate", map[string]any{"alg": "RS256"}); err != nil {
			t.note("rotate: %v", err)
		}
		if next := t.cluster.keeper.Ring().Standby(jose.EdDSA); next != nil && next.ReadyAt.Add(noise/2).Before(time.Now()) {
			t.note("emergency rotation of EdDSA to %.8s", next.ID)
			if err := t.cluster.manage(ctx, "rotate", map[string]any{"alg": "EdDSA", "emergency": true, "to": next.ID}); err != nil {
				t.note("rotate: %v", err)
			}
		}
	}
}

// steal takes the RS256 key that signs, revokes it, and goes on signing with
// it as the thief: who takes that, and for how long?
func (t *trial) steal(ctx context.Context) error {
	if t.naive { // in it, nobody holds a stand-by, and refusals are what is looked for
		return nil
	}
	if t.length < 4*t.policy.RotationPeriod {
		t.note("too short for a theft: %v would do", 4*t.policy.RotationPeriod)
		return nil
	}
	if !pause(ctx, t.length*48/100) {
		return nil
	}
	var thief *keys.Signer
	for {
		err := t.cluster.keeper.Tick(ctx)
		if err == nil {
			// A stand-by that everybody holds, as there is for 99 % of the time
			// in production.
			now := time.Now()
			next := t.cluster.keeper.Ring().Standby(jose.RS256)
			if next != nil && now.After(next.ReadyAt.Add(noise/4)) && now.Before(next.ActivateAt.Add(-noise/2)) {
				if thief, err = t.cluster.keeper.Signer(jose.RS256); err == nil {
					break
				}
			}
		}
		if !pause(ctx, 100*time.Millisecond) {
			return errors.Join(errors.New("no moment for the theft was found"), err)
		}
	}
	at := time.Now() // a refusal may come before Revoke returns
	t.mu.Lock()
	t.revoked[thief.KeyID()] = at
	t.mu.Unlock()
	if err := t.cluster.manage(ctx, thief.KeyID()+"/revoke", map[string]string{"reason": "stolen in the drill"}); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	t.note("%.8s revoked", thief.KeyID())
	for last := false; !last; {
		last = !pause(ctx, max(bound(t.policy)/200, 100*time.Millisecond)) || time.Since(at) > bound(t.policy)+2*time.Second
		text, err := thief.Sign("at+jwt", t.claims(audiences[jose.RS256]))
		if err != nil {
			return fmt.Errorf("sign as the thief: %w", err)
		}
		for _, v := range t.victims {
			asked := time.Now()
			v.ask(audiences[jose.RS256], text, func(answer verdict) {
				t.mu.Lock()
				defer t.mu.Unlock()
				v.score.stolen++
				if v.score.firstAsked.IsZero() {
					v.score.firstAsked = at
				}
				if answer.ok {
					v.score.lastTaken = answer.at
					if asked.Sub(at) > bound(t.policy) {
						v.score.stolenTakenLate++
						t.complaints = append(t.complaints, fmt.Sprintf("%6.2fs %s took a token of the revoked key %v after its revocation",
							answer.at.Sub(t.began).Seconds(), v.name, answer.at.Sub(at).Round(time.Millisecond)))
					}
				}
			})
		}
	}
	return nil
}

func (t *trial) note(format string, args ...any) {
	if t.verbose {
		fmt.Printf("%6.2fs %s\n", time.Since(t.began).Seconds(), fmt.Sprintf(format, args...))
	}
}

func (t *trial) complain(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.complaints = append(t.complaints, fmt.Sprintf(format, args...))
}

// report prints the table. The error says what is wrong.
func (t *trial) report(w io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// The last questions are answered within the longest wait of a victim.
	_ = until(ctx, 10*time.Second, "all verdicts are in", func() error { // those that aren't show in the table
		for _, v := range t.victims {
			if n := v.silent(); n > 0 {
				return fmt.Errorf("%s owes %d", v.name, n)
			}
		}
		return nil
	})
	history, err := t.cluster.store.History(ctx, 100_000)
	if err != nil {
		return fmt.Errorf("count the rotations: %w", err)
	}
	rotations := 0
	for _, e := range history {
		if e.From == keys.Announced && e.To == keys.Signing {
			rotations++
		}
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	var verified, rejections, acceptances int
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "VERIFIER\tKEEPS KEYS (unscaled)\tGOOD TOKENS\tREFUSED\tBAD TOKENS\tTAKEN\tSTOLEN KEY TAKEN FOR\tNO VERDICT")
	for _, v := range t.victims {
		s := &v.score
		contained := "-"
		if s.stolen > 0 {
			contained = "at once"
			if !s.lastTaken.IsZero() {
				contained = s.lastTaken.Sub(s.firstAsked).Round(10 * time.Millisecond).String()
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%d\n",
			v.name, v.keeps, s.good, s.goodRefused, s.bad, s.badTaken+s.stolenTakenLate, contained, v.silent())
		verified += s.good + s.bad + s.stolen
		rejections += s.goodRefused
		acceptances += s.badTaken + s.stolenTakenLate
	}
	_ = table.Flush() // there is nobody else to tell
	fmt.Fprintf(w, "replicas killed %d, PostgreSQL restarted %d, one clock wrong by %v, requests for a token without one %d; bound for the stolen key %v\n",
		t.kills, t.restarts, clockOffset(t.policy), t.mintErrors, bound(t.policy))
	const shown = 20
	for i, c := range t.complaints {
		if i == shown {
			fmt.Fprintf(w, "… and %d more\n", len(t.complaints)-shown)
			break
		}
		fmt.Fprintln(w, c)
	}
	fmt.Fprintf(w, "drill: minted=%d verified=%d wrong_rejections=%d wrong_acceptances=%d rotations=%d\n",
		t.minted, verified, rejections, acceptances, rotations)
	return t.verdict(rejections, acceptances, rotations)
}

// verdict is nil when the drill shows what it is for.
func (t *trial) verdict(rejections, acceptances, rotations int) error {
	var errs []error
	enough := int(t.length / (t.policy.RotationPeriod * 2))
	if rotations < max(1, enough) || t.minted < 10 {
		errs = append(errs, fmt.Errorf("too little happened to say anything: %d rotations, %d tokens", rotations, t.minted))
	}
	for _, v := range t.victims {
		if v.score.good == 0 || t.flood && v.score.bad == 0 {
			errs = append(errs, fmt.Errorf("%s gave no verdicts", v.name))
		}
	}
	if acceptances > 0 {
		errs = append(errs, fmt.Errorf("%d tokens were taken that should have been refused", acceptances))
	}
	switch {
	case !t.naive && rejections > 0:
		errs = append(errs, fmt.Errorf("%d good tokens were refused", rejections))
	case t.naive && rejections == 0:
		errs = append(errs, errors.New("a naive rotation broke nobody: the drill is blind"))
	}
	return errors.Join(errs...)
}
