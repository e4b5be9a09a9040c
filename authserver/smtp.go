package authserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"time"

	"github.com/wneessen/go-mail"
)

// SMTP is a mail server to which mail is handed over (RFC 5321, RFC 6409).
type SMTP struct {
	Host     string
	Port     int
	TLS      SMTPSecurity
	Roots    *tls.Config // nil for the system's roots
	Username string      // "" for no authentication
	Password string
	From     string // address, or name and address: Casas <no-reply@example.es>
}

// SMTPSecurity is how the connection to a mail server is encrypted.
type SMTPSecurity string

// The ways. StartTLS insists: a server that doesn't offer it gets nothing.
const (
	StartTLS    SMTPSecurity = "starttls"
	ImplicitTLS SMTPSecurity = "implicit" // RFC 8314
	NoTLS       SMTPSecurity = "off"
)

// smtpPatience bounds a single step of a conversation.
const smtpPatience = 20 * time.Second

// Check says what is wrong with the settings, or nil. It calls nobody.
func (s *SMTP) Check() error {
	if err := mail.NewMsg().From(s.From); err != nil {
		return errors.New("the sender must be an address, or a name and an address: Casas <no-reply@example.es>")
	}
	if s.Username != "" && s.TLS == NoTLS {
		return errors.New("a password is not sent without TLS")
	}
	_, err := s.client(nil)
	return err
}

func (s *SMTP) client(dial mail.DialContextFunc) (*mail.Client, error) {
	options := []mail.Option{mail.WithPort(s.Port), mail.WithTimeout(smtpPatience), mail.WithTLSConfig(s.config())}
	switch s.TLS {
	case StartTLS:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	case ImplicitTLS:
		options = append(options, mail.WithSSL())
	case NoTLS:
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	}
	if s.Username != "" {
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(s.Username), mail.WithPassword(s.Password))
	}
	if dial != nil {
		options = append(options, mail.WithDialContextFunc(dial))
	}
	client, err := mail.NewClient(s.Host, options...)
	if err != nil {
		return nil, fmt.Errorf("set up SMTP: %w", err)
	}
	return client, nil
}

func (s *SMTP) config() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.Roots != nil {
		c = s.Roots.Clone()
	}
	c.ServerName = s.Host
	return c
}

// Send sends messages over one connection. The connection doesn't outlive ctx,
// whatever the server does.
func (s *SMTP) Send(ctx context.Context, messages []*Mail) []error {
	errs := make([]error, len(messages))
	fail := func(err error) []error {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dial := func(dialing context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(dialing, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = conn.Close() }) // it may be closed already
		}
		return conn, err
	}
	if s.TLS == ImplicitTLS { // the library chooses how to authenticate by who made the TLS connection
		dial = nil
	}
	client, err := s.client(dial)
	if err != nil {
		return fail(err)
	}
	prepared := make([]*mail.Msg, len(messages))
	for i, m := range messages {
		if prepared[i], errs[i] = s.prepare(m); errs[i] != nil {
			return fail(errs[i])
		}
	}
	connection, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return fail(withoutAddress(err))
	}
	context.AfterFunc(ctx, func() { _ = connection.Close() })
	_ = client.SendWithSMTPClient(connection, prepared...) // each message knows its own error
	for i, m := range prepared {
		switch {
		case m.IsDelivered():
		case m.HasSendError():
			errs[i] = withoutAddress(m.SendError())
		default:
			errs[i] = errors.New("the mail server broke off")
		}
	}
	_ = client.CloseWithSMTPClient(connection) // all that was to be said was said
	return errs
}

func (s *SMTP) prepare(m *Mail) (*mail.Msg, error) {
	msg := mail.NewMsg()
	if err := msg.From(s.From); err != nil {
		return nil, errors.New("the sender's address is not valid")
	}
	if err := msg.To(m.To); err != nil {
		return nil, fmt.Errorf("%w: not an address", ErrRejected)
	}
	msg.Subject(m.Subject)
	msg.SetDate()
	msg.SetMessageID()
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: nobody's holiday notice comes back
	msg.SetBodyString(mail.TypeTextPlain, m.Text)
	msg.AddAlternativeString(mail.TypeTextHTML, m.HTML)
	return msg, nil
}

// withoutAddress says of an error what may be logged: servers repeat addresses.
func withoutAddress(err error) error {
	var refused *mail.SendError
	var reply *textproto.Error
	switch {
	case errors.As(err, &refused):
		if refused.Reason == mail.ErrSMTPRcptTo && !refused.IsTemp() {
			return fmt.Errorf("%w: SMTP %d", ErrRejected, refused.ErrorCode())
		}
		return fmt.Errorf("the mail server says %d %s (%s)", refused.ErrorCode(), refused.EnhancedStatusCode(), refused.Reason)
	case errors.As(err, &reply):
		return fmt.Errorf("the mail server says %d", reply.Code)
	}
	return fmt.Errorf("reach the mail server: %w", err)
}
