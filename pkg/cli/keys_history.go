package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/audit"
	"github.com/urbandata/urbandata/pkg/cli/database"
)

type keysHistoryCmd struct {
	Limit         int    `default:"50" help:"How many entries, the newest first. (${default})"`
	JSON          bool   `help:"One JSON object a line, with each key before and after."`
	Verify        bool   `help:"Verify the whole history rather than show it."`
	Head          string `placeholder:"HEAD" help:"With --verify: a head that an earlier one has printed. The history up to there must be the same."`
	authnDatabase `embed:""`
}

// Help is shown by --help.
func (*keysHistoryCmd) Help() string {
	return `
Each change of a key is an entry, written in the transaction that made the change and bound to the entry before by a hash. --verify finds entries that were edited, taken out, put in or reordered, and compares the end with the version of the ring. Whoever can write to the database could write all of it anew: note the head that --verify prints somewhere else, and give it to the next one.

Exit codes: 0 all is well. 1 failed. 2 a wrong setting. 3 the ring was changed without an entry: by a release before there was a history, or by hand. 4 the history has been tampered with.`
}

// Run shows or verifies the history.
func (c *keysHistoryCmd) Run(p *program) error {
	var known *audit.Head
	if c.Head != "" {
		head, err := audit.ParseHead(c.Head)
		if err != nil || !c.Verify {
			return wrongSetting("--head", "it goes with --verify, and is what an earlier one printed: a number, a colon and 64 hexadecimal digits")
		}
		known = &head
	}
	if c.Limit < 1 || c.Limit > 100_000 {
		return wrongSetting("--limit", "it must lie between 1 and 100000")
	}
	return c.ring(p, func(_ *database.SQL, store *keys.SQLStore) error {
		if c.Verify {
			return c.verify(p, store, known)
		}
		entries, err := store.Audit(p.ctx, c.Limit)
		if err != nil {
			return err
		}
		older, err := c.before(p, store, entries)
		if err != nil {
			return err
		}
		return c.show(p.stdout, append(entries, older...))
	})
}

// before are the events of a release that kept no audit, as entries without a
// number.
func (c *keysHistoryCmd) before(p *program, store *keys.SQLStore, entries []audit.Entry) ([]audit.Entry, error) {
	if len(entries) >= c.Limit {
		return nil, nil
	}
	events, err := store.History(p.ctx, c.Limit)
	if err != nil {
		return nil, err
	}
	first := int64(1 << 62)
	if len(entries) > 0 {
		first = keys.RingOf(entries[len(entries)-1])
	}
	var older []audit.Entry
	for _, e := range events {
		if e.Version < first && len(entries)+len(older) < c.Limit {
			action := string(e.To)
			if action == "" {
				action = "forgotten"
			}
			older = append(older, audit.Entry{At: e.At, Actor: e.Actor, Action: "key." + action, Subject: e.KeyID, Reason: e.Reason})
		}
	}
	return older, nil
}

func (c *keysHistoryCmd) show(out io.Writer, entries []audit.Entry) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if !c.JSON {
		fmt.Fprintln(table, "ENTRY\tAT\tKID\tWHAT\tWHO\tWHY")
	}
	raw := func(text string) json.RawMessage {
		if !json.Valid([]byte(text)) {
			return json.RawMessage("null")
		}
		return json.RawMessage(text)
	}
	for _, e := range entries {
		if !c.JSON {
			number := "-"
			if e.Seq > 0 {
				number = fmt.Sprint(e.Seq)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", number, stamp(e.At), e.Subject, e.Action, e.Actor, e.Reason)
			continue
		}
		if err := json.NewEncoder(out).Encode(struct {
			Seq     int64           `json:"seq,omitempty"`
			At      time.Time       `json:"at"`
			Actor   string          `json:"actor"`
			Action  string          `json:"action"`
			KeyID   string          `json:"kid"`
			Reason  string          `json:"reason"`
			Before  json.RawMessage `json:"before"`
			After   json.RawMessage `json:"after"`
			Hash    string          `json:"hash,omitempty"`
			Chained bool            `json:"chained"`
		}{e.Seq, e.At, e.Actor, e.Action, e.Subject, e.Reason, raw(e.Before), raw(e.After), e.Hash.String(), e.Seq > 0}); err != nil {
			return fmt.Errorf("write an entry: %w", err)
		}
	}
	return table.Flush()
}

// verify prints what it finds and ends with the code for it.
func (c *keysHistoryCmd) verify(p *program, store *keys.SQLStore, known *audit.Head) error {
	v, err := store.VerifyHistory(p.ctx, known)
	if err != nil && !errors.Is(err, audit.ErrBroken) {
		return err
	}
	tampered := err != nil
	if c.JSON {
		problem := ""
		if tampered {
			problem = err.Error()
		}
		if err := json.NewEncoder(p.stdout).Encode(struct {
			Intact  bool       `json:"intact"`
			Problem string     `json:"problem,omitempty"`
			Entries int64      `json:"entries"`
			Head    string     `json:"head"`
			Ring    int64      `json:"ring"`
			Gaps    []keys.Gap `json:"gaps,omitempty"`
		}{!tampered, problem, v.Head.Seq, v.Head.String(), v.Version, v.Gaps}); err != nil {
			return fmt.Errorf("write what was found: %w", err)
		}
	} else {
		if tampered {
			fmt.Fprintf(p.stdout, "TAMPERED WITH: %s\n%d entries before are as they were written\n", err, v.Head.Seq)
		} else {
			fmt.Fprintf(p.stdout, "%d entries are as they were written, up to ring %d\n", v.Head.Seq, v.Version)
		}
		for _, gap := range v.Gaps {
			fmt.Fprintf(p.stdout, "rings %d to %d have no entry: changed by a release that kept no history, or by hand\n", gap.From, gap.To)
		}
		fmt.Fprintf(p.stdout, "head %s\n", v.Head)
	}
	switch {
	case tampered:
		return &verdictError{exitBroken}
	case len(v.Gaps) > 0:
		return &verdictError{exitWarnings}
	}
	return nil
}
