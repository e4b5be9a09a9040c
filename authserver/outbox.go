package authserver

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// The outbox. A request that leads to mail leaves one row, in its transaction
// if it has one, and is answered; a worker sends it afterwards:
//
//	request ──▶ row ──▶ leased by one replica ──▶ handed over ──▶ gone
//	             ▲              │
//	             └──────────────┘ the server is away: later, and later still
//
// So a mail server that is away loses nothing and slows no request. A replica
// that dies with a lease loses nothing either: the lease runs out. Mail may
// arrive twice, when it died just after handing it over.
//
// A row holds no secret. Whether there is a user with an address, and the link
// for that user, are found and made when the mail is sent: the request did the
// same for an address that nobody has.

// MailOptions are how accounts send mail.
type MailOptions struct {
	Mailer Mailer // nil for no mail at all
	URL    string // what links in mail begin with: where the web pages for them are, no slash at the end
	Verify Verification
}

// Verification is what becomes of addresses that nobody has shown to read.
type Verification string

// The policies.
const (
	VerifyOff      Verification = "off"      // nothing
	VerifyWarn     Verification = "warn"     // a registration gets mail, a login says so
	VerifyRequired Verification = "required" // and there is no login before
)

const (
	mailBatch   = 10
	mailTimeout = time.Minute     // for handing a batch over
	mailLease   = 2 * time.Minute // longer than that
	mailPoll    = 5 * time.Second // how often the outbox is looked into without a call
)

// mailExpiry is how long mail is worth sending.
func mailExpiry(kind mailKind) time.Duration {
	if kind == mailReset {
		return time.Hour // who asked has given up or asked again
	}
	return 3 * 24 * time.Hour
}

// mailBackoff is how long after a failed attempt the next one comes: from ten
// seconds to half an hour, give or take a fifth, so that not all come at once.
func mailBackoff(attempts int) time.Duration {
	wait := 10 * time.Second << (2 * min(attempts-1, 4))
	wait = min(wait, 30*time.Minute)
	return time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // no secret
}

// outbox sends what waits.
type outbox struct {
	MailOptions
	store   *Store
	now     func() time.Time
	wake    chan struct{} // holds one call
	log     *slog.Logger
	sent    *prometheus.CounterVec
	waiting prometheus.Gauge
}

// newOutbox is nil when there is no mailer.
func newOutbox(store *Store, o MailOptions, now func() time.Time) *outbox {
	if o.Mailer == nil {
		return nil
	}
	b := &outbox{
		MailOptions: o, store: store, now: now, wake: make(chan struct{}, 1), log: slog.Default(),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "urbandata_mail_total", Help: "Mail that left the outbox or was delayed there, by outcome.",
		}, []string{"outcome"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "urbandata_mail_waiting", Help: "Mail in the outbox, when it was last looked into.",
		}),
	}
	for _, outcome := range []string{"sent", "delayed", "void", "given_up"} {
		b.sent.WithLabelValues(outcome)
	}
	return b
}

// call has the worker look into the outbox now.
func (b *outbox) call() {
	if b == nil {
		return
	}
	select {
	case b.wake <- struct{}{}:
	default: // it has been called already
	}
}

// run sends until ctx ends.
func (b *outbox) run(ctx context.Context) {
	for {
		n, err := b.deliver(ctx)
		if err != nil && ctx.Err() == nil {
			b.log.LogAttrs(ctx, slog.LevelWarn, "the outbox can't be worked on", slog.String("cause", err.Error()))
		}
		if n > 0 && err == nil && ctx.Err() == nil {
			continue // there may be more
		}
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		case <-time.After(mailPoll):
		}
	}
}

// deliver sends a batch of what is due, and returns how much that was.
func (b *outbox) deliver(ctx context.Context) (int, error) {
	waiting, due, err := b.store.outboxLength(ctx, b.now())
	if err != nil {
		return 0, err
	}
	b.waiting.Set(float64(waiting))
	if !due {
		return 0, nil
	}
	rows, err := b.store.leaseMail(ctx, uuid.NewString(), b.now(), b.now().Add(mailLease), mailBatch)
	if err != nil {
		return 0, err
	}
	// What was handed over is to be taken out, even if the process is to end.
	settling := context.WithoutCancel(ctx)
	var errs []error
	var mails []*Mail
	var of []*outboxRow
	for i := range rows {
		row := &rows[i]
		if b.now().UnixMilli() >= row.ExpiresAt {
			errs = append(errs, b.settle(settling, row, "given_up", errors.New("it was not sent in time")))
			continue
		}
		m, err := b.write(ctx, row)
		switch {
		case err != nil: // the database, so far
			return len(rows), errors.Join(append(errs, err)...)
		case m == nil:
			errs = append(errs, b.settle(settling, row, "void", nil))
		default:
			mails, of = append(mails, m), append(of, row)
		}
	}
	if len(mails) == 0 {
		return len(rows), errors.Join(errs...)
	}
	sending, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	for i, err := range b.Mailer.Send(sending, mails) {
		outcome := "sent"
		switch {
		case errors.Is(err, ErrRejected):
			outcome = "given_up"
		case err != nil:
			outcome = "delayed"
		}
		errs = append(errs, b.settle(settling, of[i], outcome, err))
	}
	return len(rows), errors.Join(errs...)
}

// settle records what became of a leased mail.
func (b *outbox) settle(ctx context.Context, row *outboxRow, outcome string, cause error) error {
	b.sent.WithLabelValues(outcome).Inc()
	if cause != nil {
		b.log.LogAttrs(ctx, slog.LevelWarn, "mail was not sent", slog.String("kind", string(row.Kind)), slog.String("id", row.ID),
			slog.String("outcome", outcome), slog.Int("attempts", row.Attempts), slog.String("cause", cause.Error()))
	}
	if outcome == "delayed" {
		return b.store.delayMail(ctx, row, b.now().Add(mailBackoff(row.Attempts)))
	}
	return b.store.dropMail(ctx, row)
}

// write writes the mail of a row, with a new link if it has one, or returns
// nil when there is nobody to send it to, or no longer a reason.
func (b *outbox) write(ctx context.Context, row *outboxRow) (*Mail, error) {
	kind, data := row.Kind, mailData{}
	user, err := b.store.findUser(ctx, foldEmail(row.Address))
	if row.UserID != nil {
		user, err = one(ctx, b.store.userByID, *row.UserID)
	}
	if errors.Is(err, ErrNoUser) {
		return nil, nil //nolint:nilnil // the usual second outcome, said in the comment
	}
	if err != nil {
		return nil, err
	}
	data.Email = user.Email // as it is stored, not as somebody typed it
	switch {
	case kind == mailReset && user.DisabledAt != nil, kind == mailVerify && user.EmailVerifiedAt != nil,
		kind == mailDeleted && user.EraseAt == nil:
		return nil, nil //nolint:nilnil // as above
	case kind == mailEmailChanged:
		data.Email = row.Address
	case kind == mailChange:
		data.Email = row.Address
		other, err := b.store.findUser(ctx, foldEmail(row.Address))
		if err == nil && other.ID != user.ID {
			kind, user, data.Email = mailKnown, other, other.Email
		} else if err != nil && !errors.Is(err, ErrNoUser) {
			return nil, err
		}
	}
	language := user.Language
	if language == "" {
		language = row.Language
	}
	if user.EraseAt != nil {
		data.Date = i18n.Date(time.UnixMilli(*user.EraseAt).UTC())
	}
	if life, ok := linkLife[kind]; ok {
		token := newLink()
		now := b.now()
		if err := b.store.insertLink(ctx, token.hash(), kind, user.ID, data.Email, now, now.Add(life)); err != nil {
			return nil, err
		}
		data.Link = b.URL + linkPath[kind] + token.String()
	}
	return compose(kind, language, data)
}

// mail is a row for the outbox, or nil when no mail is sent. user is whom it
// is about, nil where that is still to be found; address to whom it goes where
// that isn't the user's address.
func (a *Accounts) mail(kind mailKind, user *userRow, address, language string) *outboxRow {
	if a.outbox == nil {
		return nil
	}
	now := a.now()
	row := &outboxRow{
		ID: uuid.NewString(), Kind: kind, Address: address, Language: language,
		CreatedAt: now.UnixMilli(), DueAt: now.UnixMilli(), ExpiresAt: now.Add(mailExpiry(kind)).UnixMilli(),
	}
	about := address
	if user != nil {
		row.UserID, about = &user.ID, user.ID
	}
	row.Dedupe = string(kind) + ":" + about
	return row
}
