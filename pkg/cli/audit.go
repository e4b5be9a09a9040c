package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/audit"
)

type auditCmd struct {
	Export auditExportCmd `cmd:"" help:"Write the audit, one JSON object a line."`
	Verify auditVerifyCmd `cmd:"" help:"Verify that nothing in the audit, or in an exported file, was changed, removed or reordered."`
}

// operate names whoever runs a command, for the audit of accounts.
func (p *program) operate() {
	p.ctx = authserver.WithActor(p.ctx, "operator "+operator())
}

// auditLog is which log is meant.
type auditLog struct {
	Log           string `default:"${accountslog}" enum:"${accountslog},${keyslog}" help:"accounts (users, sessions, clients, audiences) or keys. (${default})"`
	authnDatabase `embed:""`
}

// open calls f with the log, all of it chained.
func (l *auditLog) open(p *program, f func(*audit.Log) error) (err error) {
	db, err := l.authnDatabase.open(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	log := audit.NewLog(db.Write, l.Log)
	if l.Log != keys.AuditLog {
		if _, err := log.Settle(p.ctx); err != nil {
			return err
		}
	}
	return f(log)
}

type auditExportCmd struct {
	Actor    string `placeholder:"WHO" help:"Only what this one did: \"user ID\", \"client ID\", \"operator NAME@HOST\", or the id of a user."`
	Action   string `placeholder:"WHAT" help:"Only this, such as login.failed."`
	Subject  string `placeholder:"WHOM" help:"Only what was done to this one."`
	Since    string `placeholder:"TIME" help:"From this moment on, such as 2026-11-25 or 2026-11-25T08:30:00Z."`
	Until    string `placeholder:"TIME" help:"Before this moment."`
	After    string `placeholder:"HEAD" help:"What comes after a head that an earlier export or verify has printed."`
	auditLog `embed:""`
}

// Help is shown by --help.
func (*auditExportCmd) Help() string {
	return `
The oldest entry comes first, on standard output. An export without filters can be verified by itself, and what comes after a head together with that head; the head that it ends with is printed on standard error: keep it somewhere else.

  urbandata audit export > audit.ndjson
  urbandata audit verify audit.ndjson`
}

// Run writes the entries.
func (c *auditExportCmd) Run(p *program) error {
	f := audit.Filter{Actor: logName(c.Actor), Action: c.Action, Subject: logName(c.Subject), Oldest: true, Limit: 1000}
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"--since", c.Since, &f.Since}, {"--until", c.Until, &f.Until}} {
		var err error
		if *t.to, err = parseMoment(t.text); err != nil {
			return wrongSetting(t.flag, "it must be a day or a time, such as 2026-11-25 or 2026-11-25T08:30:00Z")
		}
	}
	head, err := parseHead("--after", c.After)
	if err != nil {
		return err
	}
	if head != nil {
		f.After = head.Seq
	} else {
		head = &audit.Head{}
	}
	return c.open(p, func(log *audit.Log) error {
		for {
			entries, err := log.Find(p.ctx, f)
			if err != nil {
				return err
			}
			var lines []byte
			for i := range entries {
				if lines, err = audit.AppendLine(lines, c.Log, &entries[i]); err != nil {
					return err
				}
				f.After = entries[i].Seq
				*head = audit.Head{Seq: entries[i].Seq, Hash: entries[i].Hash}
			}
			if _, err := p.stdout.Write(lines); err != nil {
				return fmt.Errorf("write the audit: %w", err)
			}
			if len(entries) < f.Limit {
				_, err := fmt.Fprintf(p.stderr, "head %s\n", head)
				return err
			}
		}
	})
}

// logName is a name of the log, also for the id of a user alone.
func logName(text string) string {
	if id, err := uuid.Parse(text); err == nil && len(text) == len(id.String()) {
		return "user " + id.String()
	}
	return text
}

func parseMoment(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if day, err := time.Parse(time.DateOnly, text); err == nil {
		return day, nil
	}
	return time.Parse(time.RFC3339, text)
}

func parseHead(flag, text string) (*audit.Head, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // nil stands for none
	}
	head, err := audit.ParseHead(text)
	if err != nil {
		return nil, wrongSetting(flag, "it is what an earlier export or verify printed: a number, a colon and 64 hexadecimal digits")
	}
	return &head, nil
}

type auditVerifyCmd struct {
	File     string `arg:"" optional:"" help:"An exported file, or - for standard input; the database if not given."`
	Head     string `placeholder:"HEAD" help:"A head that an earlier one has printed. The audit up to there must be the same."`
	After    string `placeholder:"HEAD" help:"With a file: it begins after this head."`
	JSON     bool   `help:"One JSON object."`
	auditLog `embed:""`
}

// Help is shown by --help.
func (*auditVerifyCmd) Help() string {
	return `
Each entry is bound to the one before it by a hash. Whoever can write to the database could write all of it anew, or cut off its end: note the head that is printed somewhere else, and give it to the next one as --head.

Exit codes: 0 all is as it was written. 1 failed. 2 a wrong setting. 4 it has been tampered with; the first bad entry is named.`
}

// Run verifies, and prints what it finds.
func (c *auditVerifyCmd) Run(p *program) error {
	known, err := parseHead("--head", c.Head)
	if err != nil {
		return err
	}
	after, err := parseHead("--after", c.After)
	if err != nil {
		return err
	}
	if after != nil && c.File == "" {
		return wrongSetting("--after", "it goes with a file; the database is verified whole")
	}
	var head audit.Head
	if c.File != "" {
		head, err = c.verifyFile(p, after, known)
	} else {
		err = c.open(p, func(log *audit.Log) (err error) {
			head, err = log.Verify(p.ctx, known, nil)
			return err
		})
	}
	if err != nil && !errors.Is(err, audit.ErrBroken) {
		return err
	}
	if c.JSON {
		problem := ""
		if err != nil {
			problem = err.Error()
		}
		if err := json.NewEncoder(p.stdout).Encode(struct {
			Intact  bool   `json:"intact"`
			Problem string `json:"problem,omitempty"`
			Entries int64  `json:"entries"` // that are as they were written
			Head    string `json:"head"`    // after them
		}{err == nil, problem, head.Seq, head.String()}); err != nil {
			return fmt.Errorf("write what was found: %w", err)
		}
	} else if err != nil {
		fmt.Fprintf(p.stdout, "TAMPERED WITH: %s\n%d entries before are as they were written\nhead %s\n", err, head.Seq, head)
	} else {
		fmt.Fprintf(p.stdout, "%d entries are as they were written\nhead %s\n", head.Seq, head)
	}
	if err != nil {
		return &verdictError{exitBroken}
	}
	return nil
}

func (c *auditVerifyCmd) verifyFile(p *program, after, known *audit.Head) (audit.Head, error) {
	file := p.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return audit.Head{}, wrongSetting("FILE", "it can't be read (%s)", reason(err))
		}
		defer func() { _ = f.Close() }() // only read
		file = f
	}
	_, head, err := audit.VerifyFile(file, after, known, nil)
	return head, err
}
