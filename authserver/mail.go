package authserver

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	html "html/template"
	"strings"
	"text/template"
	"time"
)

// mailKind is what a mail is about.
type mailKind string

const (
	mailReset           mailKind = "reset"            // to a user, with a link
	mailVerify          mailKind = "verify"           // to a user, with a link
	mailChange          mailKind = "change"           // to an address that a user wants to have, with a link
	mailKnown           mailKind = "known"            // to a user whose address somebody wanted to register
	mailPasswordChanged mailKind = "password_changed" // to a user
	mailEmailChanged    mailKind = "email_changed"    // to the address that a user had before
	mailDeleted         mailKind = "deleted"          // to a user
	mailSecondFactor    mailKind = "second_factor"    // to a user
	mailAPIToken        mailKind = "api_token"        // to a user
)

// linkLife is how long the link in a mail works.
var linkLife = map[mailKind]time.Duration{
	mailReset:  10 * time.Minute, // ASVS 5.0, 6.5.5
	mailVerify: 24 * time.Hour,
	mailChange: 2 * time.Hour,
}

// linkPath is where the link in a mail leads to. The token follows as the
// fragment, which a browser sends to no server.
var linkPath = map[mailKind]string{
	mailReset:  "/reset-password#token=",
	mailVerify: "/confirm-email#token=",
	mailChange: "/confirm-email#token=",
}

// Mail is a message to one person.
type Mail struct {
	To, Subject, Text, HTML string
	Link                    string // that is in it, or ""
}

// Mailer sends mail. It is used by one goroutine at a time.
type Mailer interface {
	// Send hands messages over and says for each whether it was taken: nil,
	// an error that wraps [ErrRejected] when it never will be, or another
	// one. No error holds an address. It ends soon after ctx.
	Send(ctx context.Context, messages []*Mail) []error
}

// ErrRejected says that a mail server won't take mail for a recipient.
var ErrRejected = errors.New("authserver: the mail server refuses the recipient")

// The texts: one file for each language, which has a subject and a body for
// each kind. The HTML part has the same paragraphs. No mail repeats what a
// stranger may have typed, names above all: it would carry their message.
var (
	//go:embed mail
	mailFiles embed.FS

	mailTexts = map[string]*template.Template{
		Spanish: template.Must(template.ParseFS(mailFiles, "mail/es.txt")),
		English: template.Must(template.ParseFS(mailFiles, "mail/en.txt")),
	}
	mailLayout = html.Must(html.ParseFS(mailFiles, "mail/layout.html"))
)

// mailData is what the texts are filled with.
type mailData struct {
	Email          string
	Link           string
	Minutes, Hours int    // that the link works
	Date           string // of erasure
}

// compose writes a mail.
func compose(kind mailKind, language string, data mailData) (*Mail, error) {
	texts, ok := mailTexts[language]
	if !ok {
		language, texts = Spanish, mailTexts[Spanish]
	}
	life := linkLife[kind]
	data.Minutes, data.Hours = int(life/time.Minute), int(life/time.Hour)
	var subject, body, page bytes.Buffer
	if err := texts.ExecuteTemplate(&subject, string(kind)+" subject", data); err != nil {
		return nil, fmt.Errorf("write a mail: %w", err)
	}
	if err := texts.ExecuteTemplate(&body, string(kind), data); err != nil {
		return nil, fmt.Errorf("write a mail: %w", err)
	}
	text := strings.TrimSpace(body.String()) + "\n"
	err := mailLayout.Execute(&page, map[string]any{
		"Language": language, "Subject": subject.String(), "Link": data.Link,
		"Paragraphs": strings.Split(strings.TrimSpace(text), "\n\n"),
	})
	if err != nil {
		return nil, fmt.Errorf("write a mail: %w", err)
	}
	return &Mail{To: data.Email, Subject: subject.String(), Text: text, HTML: page.String(), Link: data.Link}, nil
}

// mailDate is a day as people write it.
func mailDate(at time.Time, language string) string {
	if language == English {
		return at.UTC().Format("2 January 2006")
	}
	return at.UTC().Format("02/01/2006")
}
