package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/pkg/audit"
	"github.com/urbandata/urbandata/pkg/token"
)

// The audit of accounts: who did what to whom, from where and when. It is the
// log "accounts" of package audit, a chain of its own: a flood of logins then
// doesn't hold up a key that is to be revoked, and each can be exported and
// verified alone.
//
//	an act that writes ─▶ one row in the queue, in the act's transaction ─┐
//	a refusal ─▶ counted in memory ─▶ at most a second later, a row ───────┼─▶ chained
//	                                                                      ┘   by whoever settles
//
// An act takes no lock for its entry: the end of the chain is held only by who
// settles, and by nobody who holds the row of a user or a session. So there is
// nothing to wait for, and no deadlock. Refreshes and tokens for clients are
// not in it; they change nothing, and there are thousands a second.
//
// What an entry says of people are ids. Networks and devices are kept apart
// from the chain and go with the account, or after [AccountsOptions].AuditOrigins;
// the chain verifies all the same. No entry has an address, a password or a
// token.
//
// Refusals can be had by anybody, so their entries are bounded: the same ones
// within a second are one entry with a count, and when more than
// refusalBurst come, and more than one a second after that, those of a kind
// are one entry with the number of networks and accounts. A replica so writes
// 90,000 a day (40 MB) at most, whatever comes.

// AuditLog is the name of the accounts' log in package audit.
const AuditLog = "accounts"

// DefaultAuditOrigins is for how long networks and devices are kept.
const DefaultAuditOrigins = 365 * 24 * time.Hour

// The actions of the log.
const (
	actLogin           = "login"
	actLoginFailed     = "login.failed"
	actConfirmFailed   = "reauthentication.failed" // a password or code that was asked for again
	actRegistered      = "user.registered"
	actRegisterRefused = "user.registration_refused" // the address is known
	actCreated         = "user.created"
	actImported        = "user.imported"
	actRoles           = "user.roles_changed"
	actDisabled        = "user.disabled"
	actEnabled         = "user.enabled"
	actDeleted         = "user.deleted"
	actRestored        = "user.restored"
	actErased          = "user.erased"
	actPasswordChanged = "password.changed"
	actPasswordSet     = "password.set" // by somebody else
	actResetRequested  = "password.reset_requested"
	actPasswordReset   = "password.reset"
	actEmailRequested  = "email.change_requested"
	actEmailChanged    = "email.changed"
	actEmailVerified   = "email.verified"
	actFactorOn        = "second_factor.on"
	actFactorOff       = "second_factor.off"
	actRecoveryCodes   = "recovery_codes.replaced"
	actAPITokenCreated = "api_token.created"
	actAPITokenEnded   = "api_token.ended"
	actSessionEnded    = "session.ended"
	actSessionReused   = "session.reuse_detected" // and so ended
	actClientCreated   = "client.created"
	actClientChanged   = "client.changed"
	actClientSecret    = "client.secret_rotated"
	actClientKeys      = "client.keys_replaced"
	actClientDisabled  = "client.disabled"
	actClientEnabled   = "client.enabled"
	actClientRemoved   = "client.removed"
	actAudienceCreated = "audience.created"
	actAudienceRemoved = "audience.removed"
)

// Who acts where it is no user and no client.
const (
	actorAnonymous = "anonymous"
	actorSystem    = "system"
	actorOperator  = "operator"
)

// Why something was refused or ended.
const (
	reasonReused        = "refresh token reused"
	reasonOTPRequired   = "otp_required"
	reasonWrongOTP      = "wrong_otp"
	reasonWrongPassword = "wrong_credentials" //nolint:gosec // a name
	reasonDeleted       = "account_deleted"
	reasonUnverified    = "email_unverified"
	reasonUnmet         = "unmet_authentication_requirements"
	reasonThrottled     = "too_many_requests"
)

// userName and clientName are how users and clients are named in the log.
func userName(id string) string   { return "user " + id }
func clientName(id string) string { return "client " + id }

type actorKey struct{}

// WithActor says who does what is done under ctx, for the audit: an operator,
// such as "operator ana@host". Otherwise it is the user whom it is about.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// actorOf is who acts under ctx; "" when nobody has said.
func actorOf(ctx context.Context) string {
	actor, _ := ctx.Value(actorKey{}).(string)
	return actor
}

// operating is ctx with an operator as its actor, unless it has one.
func operating(ctx context.Context) context.Context {
	if actorOf(ctx) == "" {
		return WithActor(ctx, actorOperator)
	}
	return ctx
}

// act is what an entry of the audit says, but for when and from where.
type act struct {
	what   string
	who    string // unless the context has an actor; "" for whom
	whom   string
	why    string
	before any // nil for none; no secrets
	after  any
}

// What entries say of an act, before and after it.
type (
	rolesState struct {
		Roles []token.Role `json:"roles"`
	}
	loginState struct {
		Session  string `json:"session"`
		Client   string `json:"client"`
		Audience string `json:"audience"`
		AMR      string `json:"amr"`
	}
	sessionsState struct {
		Sessions []string `json:"sessions"`
		Count    int      `json:"count"`
	}
	apiTokenState struct {
		APIToken  string    `json:"api_token"` // its id
		Scope     string    `json:"scope"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	apiTokensState struct {
		APITokens []string `json:"api_tokens"` // their ids
	}
	deletedState struct {
		EraseAt time.Time `json:"erase_at"`
	}
)

// origin is where an act came from.
type origin struct {
	Network   string `json:"network,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
}

// entry is the act as it is logged.
func (a *act) entry(ctx context.Context, at time.Time) (audit.Entry, error) {
	e := audit.Entry{At: at, Actor: actorOf(ctx), Action: a.what, Subject: a.whom, Reason: a.why}
	if e.Actor == "" {
		e.Actor = a.who
	}
	if e.Actor == "" {
		e.Actor = a.whom
	}
	from := peerOf(ctx)
	for _, part := range []struct {
		to    *string
		value any
	}{{&e.Before, a.before}, {&e.After, a.after}, {&e.Origin, origin{from.network(), from.UserAgent}}} {
		if part.value == nil || part.value == (origin{}) {
			continue
		}
		text, err := json.Marshal(part.value)
		if err != nil {
			return e, fmt.Errorf("audit: %s: %w", a.what, err)
		}
		*part.to = string(text)
	}
	if e.Origin != "" {
		// A stranger's network is kept for as long as the account that was tried.
		if person, ok := cutName(e.Actor, "user "); ok {
			e.OriginOf = person
		} else if person, ok := cutName(e.Subject, "user "); ok && e.Actor == actorAnonymous {
			e.OriginOf = person
		}
	}
	return e, nil
}

func cutName(name, kind string) (id string, ok bool) {
	if len(name) > len(kind) && name[:len(kind)] == kind {
		return name[len(kind):], true
	}
	return "", false
}

// record logs an act, as part of a transaction.
func (s *Store) record(ctx context.Context, tx *sqlx.Tx, now time.Time, a act) error {
	e, err := a.entry(ctx, now)
	if err != nil {
		return err
	}
	return s.queue(ctx, tx, e)
}

// queue is [audit.Log.Enqueue] by a statement that was prepared.
func (s *Store) queue(ctx context.Context, tx *sqlx.Tx, e audit.Entry) error {
	if _, err := tx.StmtxContext(ctx, s.queueEntry).ExecContext(ctx, s.audit.QueueArgs(e)...); err != nil {
		return fmt.Errorf("audit: queue an entry: %w", err)
	}
	return nil
}

// recorded is record, to be called later.
func (s *Store) recorded(ctx context.Context, now time.Time, a act) func(*sqlx.Tx) error {
	return func(tx *sqlx.Tx) error { return s.record(ctx, tx, now, a) }
}

// settle chains what is queued.
func (s *Store) settle(ctx context.Context) error {
	for try := 1; ; try++ {
		_, err := s.audit.Settle(ctx)
		if err == nil || try == maxTries || !isAborted(err) {
			return err
		}
	}
}

// SettleAudit logs what was refused and chains all that is queued: what has
// been answered by then is in the log.
func (a *Accounts) SettleAudit(ctx context.Context) error {
	return errors.Join(a.refusals.flush(ctx), a.store.settle(ctx))
}

// settleEvery is how long refusals are counted, and how long an entry waits to
// be chained.
const settleEvery = time.Second

// runAudit settles until ctx ends, and then once more.
func (a *Accounts) runAudit(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := a.SettleAudit(last); err != nil {
				failed(err)
			}
			return
		case <-tick.C:
			if err := a.SettleAudit(ctx); err != nil && !isAborted(err) && ctx.Err() == nil { // another replica has done it
				failed(err)
			}
		}
	}
}

// Bounds of what refusals may cost.
const (
	refusalBurst  = 600    // entries at once
	refusalRefill = 1      // entries a second after that
	refusalMost   = 10_000 // different ones that are counted in memory
	refusalKinds  = 10     // about as many crowds as there can be
)

// refusal is what makes two refusals the same.
type refusal struct {
	what, why string
	email     string // folded; "" for none
	from      origin
}

// tally is how often something was refused.
type tally struct {
	count       int
	since, last time.Time
}

func (t tally) plus(o tally) tally {
	if t.count == 0 {
		return o
	}
	t.count += o.count
	if o.since.Before(t.since) {
		t.since = o.since
	}
	if o.last.After(t.last) {
		t.last = o.last
	}
	return t
}

// refusals counts what was refused until it is logged.
type refusals struct {
	store *Store
	now   func() time.Time

	flushing sync.Mutex // held while what was counted is on its way to the database

	mu      sync.Mutex
	counted map[refusal]tally // guarded by mu
	folded  map[refusal]crowd // guarded by mu: by what and why alone
	budget  float64           // guarded by flushing: entries that may be written
	refill  time.Time         // guarded by flushing: when it was last added to
}

// crowd are refusals of which only the number is told.
type crowd struct {
	tally
	sources int // different networks, devices and accounts
}

func newRefusals(store *Store, now func() time.Time) *refusals {
	return &refusals{store: store, now: now, counted: map[refusal]tally{}, folded: map[refusal]crowd{}, budget: refusalBurst}
}

// refused counts a refusal, if err is one that tells something about who
// asked.
func (r *refusals) refused(ctx context.Context, what, email string, err error) {
	why := refusalReason(err)
	if why == "" {
		return
	}
	r.count(ctx, what, why, email)
}

// count counts something that anybody can bring about.
func (r *refusals) count(ctx context.Context, what, why, email string) {
	from := peerOf(ctx)
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(refusal{what, why, email, origin{from.network(), from.UserAgent}}, tally{1, now, now})
}

// add needs mu.
func (r *refusals) add(about refusal, t tally) {
	if _, ok := r.counted[about]; ok || len(r.counted) < refusalMost {
		r.counted[about] = r.counted[about].plus(t)
		return
	}
	r.fold(about, crowd{t, 1})
}

// fold needs mu.
func (r *refusals) fold(about refusal, c crowd) {
	about.email, about.from = "", origin{}
	had := r.folded[about]
	r.folded[about] = crowd{had.plus(c.tally), had.sources + c.sources}
}

func refusalReason(err error) string {
	var throttled *ThrottledError
	switch {
	case errors.As(err, &throttled):
		return reasonThrottled
	case errors.Is(err, ErrCredentials), errors.Is(err, ErrPassword):
		return reasonWrongPassword
	case errors.Is(err, ErrOTPRequired):
		return reasonOTPRequired
	case errors.Is(err, ErrOTP):
		return reasonWrongOTP
	case errors.Is(err, ErrDeleted):
		return reasonDeleted
	case errors.Is(err, ErrUnverified):
		return reasonUnverified
	case errors.Is(err, ErrUnmet):
		return reasonUnmet
	}
	return ""
}

// flush logs what was counted. After an error it is counted still.
func (r *refusals) flush(ctx context.Context) error {
	r.flushing.Lock()
	defer r.flushing.Unlock()
	r.mu.Lock()
	counted := r.counted
	if len(counted) == 0 && len(r.folded) == 0 {
		r.mu.Unlock()
		return nil
	}
	now := r.now()
	if !r.refill.IsZero() {
		r.budget = min(refusalBurst, r.budget+max(0, now.Sub(r.refill).Seconds())*refusalRefill)
	}
	r.refill = now
	r.counted = map[refusal]tally{}
	// Where not all fit, a few places are kept for the crowds of those that don't.
	most := int(r.budget)
	if len(counted)+len(r.folded) > most {
		most = max(0, most-refusalKinds)
	}
	for about := range counted {
		if len(counted) <= most {
			break
		}
		r.fold(about, crowd{counted[about], 1})
		delete(counted, about)
	}
	folded := map[refusal]crowd{}
	for about, c := range r.folded {
		if len(counted)+len(folded)+1 <= int(r.budget) {
			folded[about] = c
			delete(r.folded, about)
		}
	}
	r.mu.Unlock()

	err := r.store.recordRefusals(ctx, counted, folded)
	if err == nil {
		r.budget -= float64(len(counted) + len(folded))
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for about, t := range counted {
		r.add(about, t)
	}
	for about, c := range folded {
		r.fold(about, c)
	}
	return err
}

// refusalCount is what an entry says of how often something was refused.
type refusalCount struct {
	Count   int       `json:"count"`
	Since   time.Time `json:"since"`
	Sources int       `json:"sources,omitempty"` // of a crowd: different networks, devices and accounts
}

// recordRefusals logs refusals in one transaction. Whose an address is, is
// looked up here and not when it was refused, which would tell in time which
// addresses are known.
func (s *Store) recordRefusals(ctx context.Context, counted map[refusal]tally, folded map[refusal]crowd) error {
	if len(counted)+len(folded) == 0 {
		return nil
	}
	lock := ""
	if s.write.DriverName() == "postgres" { // the account isn't erased before its entry is there
		lock = " FOR KEY SHARE"
	}
	order := make([]refusal, 0, len(counted))
	for about := range counted {
		order = append(order, about)
	}
	slices.SortFunc(order, func(a, b refusal) int { return counted[a].last.Compare(counted[b].last) })
	return s.transaction(ctx, func(tx *sqlx.Tx) error {
		for _, about := range order {
			t := counted[about]
			a := act{
				what: about.what, who: actorAnonymous, why: about.why,
				after: refusalCount{Count: t.count, Since: t.since.UTC().Truncate(time.Millisecond)},
			}
			if about.what == actConfirmFailed {
				a.who = "" // whoever it was had an access token of the user's
			}
			if about.email != "" {
				var ids []string
				if err := tx.SelectContext(ctx, &ids, tx.Rebind("SELECT id FROM users WHERE email_key = ?"+lock), about.email); err != nil {
					return fmt.Errorf("find whom a refusal is about: %w", err)
				}
				for _, id := range ids {
					a.whom = userName(id)
				}
			}
			e, err := a.entry(ctx, t.last)
			if err != nil {
				return err
			}
			if e.Origin, e.OriginOf = "", ""; about.from != (origin{}) {
				text, err := json.Marshal(about.from)
				if err != nil {
					return fmt.Errorf("audit: %s: %w", about.what, err)
				}
				e.Origin = string(text)
				e.OriginOf, _ = cutName(a.whom, "user ")
			}
			if err := s.queue(ctx, tx, e); err != nil {
				return err
			}
		}
		for about, c := range folded {
			err := s.record(ctx, tx, c.last, act{
				what: about.what, who: actorAnonymous, why: about.why,
				after: refusalCount{Count: c.count, Since: c.since.UTC().Truncate(time.Millisecond), Sources: c.sources},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}
