package authserver

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	html "html/template"
	"slices"
	"strings"
	"time"

	"github.com/urbandata/urbandata/pkg/i18n"
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

//go:embed mail/layout.html
var mailFile string

var mailLayout = html.Must(html.New("mail").Parse(mailFile))

// mailData is what a mail is filled with.
type mailData struct {
	Email string
	Link  string
	Date  i18n.Text // of erasure
}

// words are the subject and the paragraphs of a mail, of which the HTML part
// has the same. No mail repeats what a stranger may have typed, names above
// all: it would carry their message.
func (d *mailData) words(kind mailKind) (subject i18n.Text, paragraphs []i18n.Text) {
	link, life := i18n.Textf("%s", d.Link), linkLife[kind]
	switch kind {
	case mailReset:
		return "Reset your password", []i18n.Text{
			i18n.Textf("Somebody, perhaps you, asked for a new password for the account of %s. To choose one, open this link:", d.Email),
			link,
			i18n.Textf("It works once, and for %d minutes. Using it ends all your sessions.", life/time.Minute),
			"If it wasn't you, do nothing: your password is still the same.",
		}
	case mailVerify:
		return "Confirm your e-mail address", []i18n.Text{
			i18n.Textf("There is a new account with the address %s. To confirm that it is yours, open this link:", d.Email),
			link,
			i18n.Textf("It works once, and for %d hours.", life/time.Hour),
			"If you didn't make the account, don't open the link: it can't be used without.",
		}
	case mailChange:
		return "Confirm your new e-mail address", []i18n.Text{
			i18n.Textf("The owner of an account wants %s to be its address. To confirm that, open this link:", d.Email),
			link,
			i18n.Textf("It works once, and for %d hours.", life/time.Hour),
			"If it wasn't you, don't open the link: the account keeps the address it has.",
		}
	case mailKnown:
		return "You have an account already", []i18n.Text{
			i18n.Textf("Somebody, perhaps you, wanted to make an account with the address %s, or to move one to it. There is an account with this address, and nothing has changed in it.", d.Email),
			"If you have forgotten the password, ask for a reset. If it wasn't you, do nothing.",
		}
	case mailPasswordChanged:
		return "Your password has changed", []i18n.Text{
			i18n.Textf("The password of the account of %s has changed, and its other sessions have ended.", d.Email),
			"If it wasn't you, reset the password now.",
		}
	case mailEmailChanged:
		return "Your e-mail address has changed", []i18n.Text{
			i18n.Textf("The account that had the address %s has another one now. Nothing more will come here.", d.Email),
			"If it wasn't you, tell whoever runs this service.",
		}
	case mailDeleted:
		return "Your account is going to be erased", []i18n.Text{
			i18n.Textf("The account of %s is deleted, and will be erased on %s. Until then you can restore it with your password.", d.Email, d.Date),
			"If it wasn't you, restore it and change the password.",
		}
	case mailSecondFactor:
		return "Your second factor has changed", []i18n.Text{
			i18n.Textf("The second factor of the account of %s, the code that is asked for along with the password, was turned on or off.", d.Email),
			"If it wasn't you, reset the password now and tell whoever runs this service.",
		}
	case mailAPIToken:
		return "A new API token", []i18n.Text{
			i18n.Textf("A new API token was made for the account of %s. With it a program can do some of what you can, until it expires or you delete it.", d.Email),
			"If it wasn't you, reset the password now: that ends all sessions and API tokens.",
		}
	}
	return "", nil
}

// compose writes a mail.
func compose(kind mailKind, language string, data mailData) (*Mail, error) {
	if !slices.Contains(mailLanguages, language) {
		language = defaultLanguage
	}
	l := i18n.Of(language)
	subject, words := data.words(kind)
	if subject == "" {
		return nil, fmt.Errorf("write a mail: there is no kind %q", kind)
	}
	paragraphs := make([]string, len(words))
	for i, text := range words {
		paragraphs[i] = l.Say(text)
	}
	m := &Mail{To: data.Email, Subject: l.Say(subject), Text: strings.Join(paragraphs, "\n\n") + "\n", Link: data.Link}
	var page strings.Builder
	err := mailLayout.Execute(&page, map[string]any{
		"Language": language, "Subject": m.Subject, "Link": data.Link, "Paragraphs": paragraphs,
	})
	if err != nil {
		return nil, fmt.Errorf("write a mail: %w", err)
	}
	m.HTML = page.String()
	return m, nil
}
