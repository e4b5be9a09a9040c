package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urbandata/urbandata/authserver"
)

// accountFlags are the settings of accounts that a running authn has.
type accountFlags struct {
	DeletionGrace     time.Duration `default:"720h" env:"URBANDATA_AUTH_DELETION_GRACE" help:"For how long an account that its owner deleted can be restored before it is erased. (${env})"`
	AuditOrigins      time.Duration `name:"audit-origins" default:"8760h" env:"URBANDATA_AUTH_AUDIT_ORIGINS" help:"For how long the audit keeps from which network and device something came. (${env})"`
	Limits            string        `placeholder:"FILE|off" env:"URBANDATA_AUTH_LIMITS" help:"JSON file with limits on logins, registrations and resets other than the defaults, or off. (${env})"`
	TrustedProxies    []string      `name:"trusted-proxies" placeholder:"NETWORK" env:"URBANDATA_AUTH_TRUSTED_PROXIES" help:"Networks of proxies whose word about the client's address is taken, such as 10.0.0.0/8. Repeatable; several with , between. (${env})"`
	ForwardedField    string        `name:"forwarded-field" enum:"X-Forwarded-For,Forwarded" default:"X-Forwarded-For" env:"URBANDATA_AUTH_FORWARDED_FIELD" help:"Where they give it: X-Forwarded-For or Forwarded (RFC 7239). (${env})"`
	BreachedPasswords string        `placeholder:"PATH" env:"URBANDATA_AUTH_BREACHED_PASSWORDS" help:"File with passwords that may not be chosen: SHA-1 in hexadecimal, sorted, one a line, as haveibeenpwned.com publishes them. (${env})"`
	EmailVerification string        `enum:"off,warn,required" default:"off" env:"URBANDATA_AUTH_EMAIL_VERIFICATION" help:"Of addresses that users register with: off; warn (mail is sent, a login says so); required (no login before, and registering tells nobody which addresses are known). (${env})"`
	AccountURL        string        `placeholder:"URL" env:"URBANDATA_AUTH_ACCOUNT_URL" help:"Where the pages are that links in mail lead to, /reset-password and /confirm-email; the issuer if not set. (${env})"`
	MailFrom          string        `placeholder:"ADDRESS" env:"URBANDATA_MAIL_FROM" help:"Sender of mail: no-reply@example.es, or with a name, Casas <no-reply@example.es>. (${env})"`
	SMTPServer        string        `name:"smtp-server" placeholder:"HOST[:PORT]" env:"URBANDATA_SMTP_SERVER" help:"Mail server to hand mail to. The port is 587, or 465 with implicit TLS, if not set. (${env})"`
	SMTPTLS           string        `name:"smtp-tls" enum:"starttls,implicit,off" default:"starttls" env:"URBANDATA_SMTP_TLS" help:"How to encrypt: starttls (a server without it gets nothing), implicit, or off. (${env})"`
	SMTPCAFile        string        `name:"smtp-ca-file" placeholder:"PATH" env:"URBANDATA_SMTP_CA_FILE" help:"Certificates in PEM to trust for the mail server in the place of the system's. (${env})"`
	SMTPUsername      string        `name:"smtp-username" placeholder:"NAME" env:"URBANDATA_SMTP_USERNAME" help:"Name to log in with at the mail server; the password comes from URBANDATA_SMTP_PASSWORD, or the file that URBANDATA_SMTP_PASSWORD_FILE names. (${env})"`
}

const envSMTPPassword = "URBANDATA_SMTP_PASSWORD" //nolint:gosec // the variable's name

// accounts are the settings as authserver takes them. Where no mail server is
// set, console is used if there is one, else no mail is sent.
func (f *authnFlags) accounts(p *program, issuer string, console authserver.Mailer) (o authserver.AccountsOptions, err error) {
	if f.DeletionGrace < time.Minute {
		return o, wrongSetting("--deletion-grace (URBANDATA_AUTH_DELETION_GRACE)", "it must be a minute at least, such as 720h")
	}
	if f.AuditOrigins < time.Hour {
		return o, wrongSetting("--audit-origins (URBANDATA_AUTH_AUDIT_ORIGINS)", "it must be an hour at least, such as 8760h")
	}
	o = authserver.AccountsOptions{
		Sessions:      authserver.SessionLimits{Grace: f.RefreshGrace, Idle: f.RefreshIdle, Lifetime: f.SessionLifetime},
		DeletionGrace: f.DeletionGrace,
		AuditOrigins:  f.AuditOrigins,
		Mail:          authserver.MailOptions{Mailer: console, URL: f.AccountURL, Verify: authserver.Verification(f.EmailVerification)},
	}
	if o.Limits, err = readLimits(f.Limits); err != nil {
		return o, err
	}
	if f.BreachedPasswords != "" {
		if o.Breached, err = openBreached(f.BreachedPasswords); err != nil {
			return o, wrongSetting("--breached-passwords (URBANDATA_AUTH_BREACHED_PASSWORDS)", "it can't be used (%s); name a sorted list of SHA-1 hashes", reason(err))
		}
	}
	if o.Mail.URL == "" {
		o.Mail.URL = issuer
	} else if err := authserver.CheckIssuer(o.Mail.URL); err != nil {
		return o, wrongSetting("--account-url (URBANDATA_AUTH_ACCOUNT_URL)", "%s", strings.TrimPrefix(err.Error(), "the issuer "))
	}
	if f.SMTPServer != "" {
		o.Mail.Mailer, err = f.smtp(p)
	} else if o.Mail.Mailer == nil && f.EmailVerification != string(authserver.VerifyOff) {
		err = wrongSetting("--email-verification (URBANDATA_AUTH_EMAIL_VERIFICATION)", "it needs mail; set --smtp-server (URBANDATA_SMTP_SERVER), or off")
	}
	return o, err
}

// readLimits are the limits of --limits, nil for the defaults.
func readLimits(path string) (*authserver.Limits, error) {
	switch path {
	case "":
		return nil, nil //nolint:nilnil // nil stands for the defaults
	case limitsOff:
		return &authserver.Limits{}, nil
	}
	text, err := os.ReadFile(path)
	var limits authserver.Limits
	if err == nil {
		limits, err = authserver.ParseLimits(text)
	}
	if err != nil {
		return nil, wrongSetting("--limits (URBANDATA_AUTH_LIMITS)", "the file can't be used: %s",
			strings.TrimPrefix(reason(err), authserver.ErrLimits.Error()+": "))
	}
	return &limits, nil
}

const limitsOff = "off"

// proxies are the proxies of the settings.
func (f *accountFlags) proxies() (authserver.Proxies, error) {
	p := authserver.Proxies{Field: f.ForwardedField}
	for _, text := range f.TrustedProxies {
		network, err := netip.ParsePrefix(text)
		if address, errAddress := netip.ParseAddr(text); errAddress == nil {
			network, err = address.Prefix(address.BitLen())
		}
		if err != nil {
			return p, wrongSetting("--trusted-proxies (URBANDATA_AUTH_TRUSTED_PROXIES)", "each must be an address or a network, such as 10.0.0.0/8")
		}
		p.Networks = append(p.Networks, network.Masked())
	}
	return p, nil
}

// openBreached opens a list that stays open as long as the process lives.
func openBreached(path string) (*authserver.BreachedList, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		var list *authserver.BreachedList
		if list, err = authserver.NewBreachedList(file, info.Size()); err == nil {
			return list, nil
		}
	}
	return nil, errors.Join(err, file.Close())
}

// smtp is the mail server of the settings.
func (f *accountFlags) smtp(p *program) (authserver.Mailer, error) {
	const setting = "--smtp-server (URBANDATA_SMTP_SERVER)"
	host, port := f.SMTPServer, "587"
	if f.SMTPTLS == string(authserver.ImplicitTLS) {
		port = "465"
	}
	if h, p, err := net.SplitHostPort(f.SMTPServer); err == nil {
		host, port = h, p
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 || host == "" || strings.ContainsAny(host, "/@ ") {
		return nil, wrongSetting(setting, "it must be HOST or HOST:PORT, such as mail.example.es:587")
	}
	s := &authserver.SMTP{
		Host: strings.Trim(host, "[]"), Port: int(number), TLS: authserver.SMTPSecurity(f.SMTPTLS), Username: f.SMTPUsername, From: f.MailFrom,
	}
	if s.From == "" {
		return nil, wrongSetting("--mail-from (URBANDATA_MAIL_FROM)", "it is not set; name the address that mail comes from, such as no-reply@example.es")
	}
	if s.Password, err = p.secret(envSMTPPassword); err != nil {
		return nil, err
	}
	if (s.Username == "") != (s.Password == "") {
		return nil, wrongSetting("--smtp-username (URBANDATA_SMTP_USERNAME)", "name and password go together; set %s (or %s_FILE) too, or neither", envSMTPPassword, envSMTPPassword)
	}
	if f.SMTPCAFile != "" {
		pem, err := os.ReadFile(f.SMTPCAFile)
		roots := x509.NewCertPool()
		if err != nil || !roots.AppendCertsFromPEM(pem) {
			return nil, wrongSetting("--smtp-ca-file (URBANDATA_SMTP_CA_FILE)", "no certificate can be read from it; name a file with certificates in PEM")
		}
		s.Roots = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	}
	if err := s.Check(); err != nil {
		return nil, wrongSetting("--smtp-server, --mail-from, --smtp-tls", "%s", err)
	}
	return s, nil
}

// console is the mailer of a program that has no mail server: it prints what
// a user would get, on standard output, which is no log.
type console struct{ to io.Writer }

// Send prints the messages.
func (c console) Send(_ context.Context, messages []*authserver.Mail) []error {
	for _, m := range messages {
		fmt.Fprintf(c.to, "mail to %s: %s\n", m.To, m.Subject)
		if m.Link != "" {
			fmt.Fprintf(c.to, "  %s\n", m.Link)
		}
	}
	return make([]error, len(messages))
}
