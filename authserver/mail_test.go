package authserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Every kind can be written in every language, with its link in both parts.
func TestCompose(t *testing.T) {
	kinds := []mailKind{mailReset, mailVerify, mailChange, mailKnown, mailPasswordChanged, mailEmailChanged, mailDeleted, mailSecondFactor, mailAPIToken}
	for _, kind := range kinds {
		subjects := map[string]bool{}
		for _, language := range mailLanguages {
			data := mailData{Email: "ana@ejemplo.example", Date: "1/2/2027"}
			if linkLife[kind] > 0 {
				data.Link = "https://id.example" + linkPath[kind] + newLink().String()
			}
			m, err := compose(kind, language, data)
			if err != nil {
				t.Fatalf("%s %s: %v", kind, language, err)
			}
			if m.To != data.Email || m.Subject == "" || subjects[m.Subject] || strings.ContainsAny(m.Subject, "\r\n") ||
				!strings.Contains(m.Text, data.Email) || !strings.Contains(m.HTML, data.Email) || !strings.Contains(m.HTML, `lang="`+language+`"`) {
				t.Errorf("%s %s: %+v", kind, language, m)
			}
			if data.Link != "" && (!strings.Contains(m.Text, "\n"+data.Link+"\n") || !strings.Contains(m.HTML, `href="`+data.Link+`"`)) {
				t.Errorf("%s %s lacks its link: %s %s", kind, language, m.Text, m.HTML)
			}
			if strings.Contains(m.Text, " 0 ") || strings.Contains(m.Text, "<no value>") || (kind == mailDeleted) != strings.Contains(m.Text, string(data.Date)) {
				t.Errorf("%s %s: %s", kind, language, m.Text)
			}
			subjects[m.Subject] = true
		}
	}
	m, err := compose(mailReset, "xx", mailData{Email: `"<b>"@ejemplo.example`})
	if err != nil || !strings.Contains(m.HTML, `lang="es"`) || strings.Contains(m.HTML, "<b>") {
		t.Errorf("%v %+v", err, m)
	}
}

func TestLink(t *testing.T) {
	l := newLink()
	if got, err := parseLink(l.String()); err != nil || got != l {
		t.Errorf("%v %v", got, err)
	}
	good := l.String()
	for _, text := range []string{"", "udl_", good[:len(good)-1], good + "A", "udr_" + good[4:], good[:len(good)-1] + "!", strings.ToUpper(good)} {
		if _, err := parseLink(text); !errors.Is(err, ErrLink) {
			t.Errorf("%q: %v, want ErrLink", text, err)
		}
	}
}

func FuzzParseLink(f *testing.F) {
	f.Add(newLink().String())
	f.Fuzz(func(t *testing.T, text string) {
		if l, err := parseLink(text); err == nil && l.String() != text {
			t.Errorf("%q and %q are one link", text, l)
		}
	})
}

func TestMailBackoff(t *testing.T) {
	for attempts, want := range map[int]time.Duration{1: 10 * time.Second, 2: 40 * time.Second, 3: 160 * time.Second, 4: 640 * time.Second, 5: 30 * time.Minute, 1000: 30 * time.Minute} {
		if got := mailBackoff(attempts); got < want*8/10 || got > want*12/10 {
			t.Errorf("after %d attempts: %v, want about %v", attempts, got, want)
		}
	}
}

// smtpServer is a real SMTP server that keeps what it gets.
type smtpServer struct {
	host string
	port int
	pool *x509.CertPool

	mu   sync.Mutex
	got  []received
	user string // that it wants, with the password "geheim"
	hang chan struct{}
}

type received struct {
	from, to string
	data     []byte
	tls      bool
}

// newSMTP starts a server; implicit TLS if so, else STARTTLS if withTLS.
func newSMTP(t *testing.T, user string, withTLS, implicit bool) *smtpServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := &smtpServer{host: "127.0.0.1", pool: x509.NewCertPool(), user: user}
	s.pool.AddCert(certificate)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server := smtp.NewServer(s)
	server.Domain, server.ErrorLog = "mail.example", log.New(io.Discard, "", 0)
	if implicit {
		l = tls.NewListener(l, config)
	} else if withTLS {
		server.TLSConfig = config
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		if s.hang != nil {
			close(s.hang)
		}
		_ = server.Close()
	})
	return s
}

func (s *smtpServer) NewSession(c *smtp.Conn) (smtp.Session, error) {
	_, encrypted := c.TLSConnectionState()
	return &smtpSession{server: s, tls: encrypted}, nil
}

type smtpSession struct {
	server *smtpServer
	tls    bool
	known  bool
	msg    received
}

func (s *smtpSession) AuthMechanisms() []string {
	if s.server.user == "" {
		return nil
	}
	return []string{sasl.Plain}
}

func (s *smtpSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		if username != s.server.user || password != "geheim" {
			return errors.New("no")
		}
		s.known = true
		return nil
	}), nil
}
func (s *smtpSession) Reset()        { s.msg = received{} }
func (s *smtpSession) Logout() error { return nil }
func (s *smtpSession) Mail(from string, _ *smtp.MailOptions) error {
	if s.server.user != "" && !s.known {
		return smtp.ErrAuthRequired
	}
	if s.server.hang != nil {
		<-s.server.hang
	}
	s.msg = received{from: from, tls: s.tls}
	return nil
}

func (s *smtpSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	switch {
	case strings.HasPrefix(to, "nobody@"):
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user: " + to}
	case strings.HasPrefix(to, "full@"):
		return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 2, 2}, Message: "mailbox full: " + to}
	}
	s.msg.to = to
	return nil
}

func (s *smtpSession) Data(r io.Reader) (err error) {
	s.msg.data, err = io.ReadAll(r)
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.got = append(s.server.got, s.msg)
	return err
}

func (s *smtpServer) mailer(security SMTPSecurity, user, password string) *SMTP {
	return &SMTP{
		Host: s.host, Port: s.port, TLS: security, Roots: &tls.Config{RootCAs: s.pool, MinVersion: tls.VersionTLS12},
		Username: user, Password: password, From: "Casas del Sur <no-reply@casas.example>",
	}
}

// parts are a message's header and its decoded parts, by media type.
func (r received) parts(t *testing.T) (mail.Header, map[string]string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(r.data))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/alternative" {
		t.Fatalf("%s: %v", kind, err)
	}
	found := map[string]string{}
	for parts := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return m.Header, found
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(quotedprintable.NewReader(p))
		if err != nil || p.Header.Get("Content-Transfer-Encoding") != "quoted-printable" {
			t.Fatalf("%v %v", p.Header, err)
		}
		kind, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type"))
		found[kind] = strings.ReplaceAll(string(text), "\r\n", "\n")
	}
}

func TestSMTP(t *testing.T) {
	message, err := compose(mailReset, "es", mailData{Email: "ana@ejemplo.example", Link: "https://id.example/reset-password#token=" + newLink().String()})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name              string
		withTLS, implicit bool // what the server does
		user              string
		security          SMTPSecurity
		username          string
		password          string
		ok                bool
	}{
		{"STARTTLS", true, false, "", StartTLS, "", "", true},
		{"STARTTLS with a password", true, false, "casas", StartTLS, "casas", "geheim", true},
		{"implicit TLS", true, true, "", ImplicitTLS, "", "", true},
		{"implicit TLS with a password", true, true, "casas", ImplicitTLS, "casas", "geheim", true},
		{"no TLS, as asked", false, false, "", NoTLS, "", "", true},
		{"a server without STARTTLS", false, false, "", StartTLS, "", "", false},
		{"a wrong password", true, false, "casas", StartTLS, "casas", "falsch", false},
		{"no password where one is wanted", true, false, "casas", StartTLS, "", "", false},
		{"implicit TLS to a server that speaks first", false, false, "", ImplicitTLS, "", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSMTP(t, tc.user, tc.withTLS, tc.implicit)
			mailer := s.mailer(tc.security, tc.username, tc.password)
			if err := mailer.Check(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := mailer.Send(ctx, []*Mail{message})[0]
			if (err == nil) != tc.ok || errors.Is(err, ErrRejected) {
				t.Fatalf("sent: %v", err)
			}
			if err != nil && (strings.Contains(err.Error(), "ana@") || strings.Contains(err.Error(), tc.password) && tc.password != "") {
				t.Errorf("the error holds too much: %v", err)
			}
			if len(s.got) != map[bool]int{true: 1, false: 0}[tc.ok] {
				t.Fatalf("the server got %d messages", len(s.got))
			}
			if !tc.ok {
				return
			}
			got := s.got[0]
			header, parts := got.parts(t)
			if got.tls != (tc.security != NoTLS) || got.from != "no-reply@casas.example" || got.to != message.To ||
				header.Get("Auto-Submitted") != "auto-generated" || header.Get("Message-Id") == "" || header.Get("Date") == "" ||
				!strings.Contains(header.Get("From"), "Casas del Sur") {
				t.Errorf("%+v %v", got, header)
			}
			if subject, err := new(mime.WordDecoder).DecodeHeader(header.Get("Subject")); err != nil || subject != message.Subject {
				t.Errorf("subject %q, %v", subject, err)
			}
			if strings.TrimSpace(parts["text/plain"]) != strings.TrimSpace(message.Text) || strings.TrimSpace(parts["text/html"]) != strings.TrimSpace(message.HTML) {
				t.Errorf("text %s\nhtml %s", parts["text/plain"], parts["text/html"])
			}
		})
	}
}

// A certificate that isn't the server's is not accepted.
func TestSMTPChecksCertificate(t *testing.T) {
	for _, security := range []SMTPSecurity{StartTLS, ImplicitTLS} {
		s := newSMTP(t, "", true, security == ImplicitTLS)
		mailer := s.mailer(security, "", "")
		mailer.Roots = nil
		if err := mailer.Send(t.Context(), []*Mail{{To: "ana@ejemplo.example"}})[0]; err == nil || len(s.got) != 0 {
			t.Errorf("%s: mail was handed to a stranger", security)
		}
	}
}

// Each recipient has an answer of its own, and no error names an address.
func TestSMTPRecipients(t *testing.T) {
	s := newSMTP(t, "", true, false)
	var mails []*Mail
	for _, to := range []string{"ana@ejemplo.example", "nobody@ejemplo.example", "full@ejemplo.example", "eva@ejemplo.example"} {
		mails = append(mails, &Mail{To: to, Subject: "x", Text: "x", HTML: "x"})
	}
	errs := s.mailer(StartTLS, "", "").Send(t.Context(), mails)
	if errs[0] != nil || errs[3] != nil || !errors.Is(errs[1], ErrRejected) || errs[2] == nil || errors.Is(errs[2], ErrRejected) || len(s.got) != 2 {
		t.Errorf("%v, and %d arrived", errs, len(s.got))
	}
	for _, err := range errs {
		if err != nil && strings.Contains(err.Error(), "@") {
			t.Errorf("an address: %v", err)
		}
	}
}

// A server that never answers is left when the time is over.
func TestSMTPHangs(t *testing.T) {
	s := newSMTP(t, "", true, false)
	s.hang = make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.mailer(StartTLS, "", "").Send(ctx, []*Mail{{To: "ana@ejemplo.example"}})[0]; err == nil || errors.Is(err, ErrRejected) {
		t.Errorf("%v", err)
	}
}
