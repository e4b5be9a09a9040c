package authserver

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/negotiation"
	"github.com/google/uuid"

	"github.com/urbandata/urbandata/pkg/audit"
)

// AuditEntry is an entry of the audit as it is shown. It is the line that
// [audit.AppendLine] writes, and what is said here is for the document.
type AuditEntry struct {
	Log        string         `json:"log" enum:"accounts,keys"`
	Seq        int64          `json:"seq" doc:"1, 2, 3, … without a gap"`
	At         time.Time      `json:"at"`
	Actor      string         `json:"actor" doc:"Who: user and id, client and id, operator and name@host, anonymous, system, or a replica" example:"user 01a203e0-beac-7480-9f3b-f73098445376"`
	Action     string         `json:"action" doc:"What" example:"session.ended"`
	Subject    string         `json:"subject" doc:"Whom: user and id, client and id, audience and name, the kid of a key; empty where nobody has the address" example:"user 01a203e0-beac-7480-9f3b-f73098445376"`
	Reason     string         `json:"reason"`
	Before     map[string]any `json:"before" nullable:"true"`
	After      map[string]any `json:"after" nullable:"true"`
	Origin     map[string]any `json:"origin" nullable:"true" doc:"From where, network and user_agent; null if it isn't known, or was erased"`
	OriginSalt string         `json:"origin_salt"`
	OriginHash string         `json:"origin_hash" doc:"Of salt and origin, in hexadecimal; what the chain holds"`
	Hash       string         `json:"hash" doc:"Of the entry and all before it, in hexadecimal"`
}

type auditInput struct {
	Accept  string    `header:"Accept" doc:"application/json, or application/x-ndjson for one entry a line"`
	Log     string    `query:"log" enum:"accounts,keys" default:"accounts"`
	Actor   string    `query:"actor" minLength:"1" maxLength:"200" doc:"Who, as entries have it, or the id of a user or client"`
	Action  string    `query:"action" maxLength:"100" pattern:"^[a-z_.]+$" doc:"What" example:"login.failed"`
	Subject string    `query:"subject" minLength:"1" maxLength:"220" doc:"Whom, as entries have it, or the id of a user or client"`
	Since   time.Time `query:"since" doc:"From this moment on"`
	Until   time.Time `query:"until" doc:"Before this moment"`
	Order   string    `query:"order" enum:"desc,asc" default:"desc" doc:"desc: the newest first"`
	Cursor  int64     `query:"cursor" minimum:"1" maximum:"9007199254740991" doc:"The seq of the last one of the page before"`
	Limit   int       `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at most"`
}

type auditOutput struct {
	CacheControl string   `header:"Cache-Control"`
	ContentType  string   `header:"Content-Type"`
	Link         string   `header:"Link" doc:"rel=next leads to the next page (RFC 8288)"`
	Vary         []string `header:"Vary"` // a slice is added to what the CORS layer says
	Body         []byte
}

const typeNDJSON = "application/x-ndjson"

// named is a name of the log, also for the id of a user or client alone.
func named(text string) string {
	if id, err := uuid.Parse(text); err == nil {
		if len(text) == 32 { // as clients' are written
			return clientName(text)
		}
		return userName(id.String())
	}
	return text
}

func (s *Server) readAudit(ctx context.Context, in *auditInput) (*auditOutput, error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	if err := s.accounts.SettleAudit(ctx); err != nil {
		return nil, err
	}
	f := audit.Filter{
		Actor: named(in.Actor), Action: in.Action, Subject: named(in.Subject), Since: in.Since, Until: in.Until,
		Oldest: in.Order == "asc", Limit: in.Limit + 1,
	}
	if f.Before = in.Cursor; f.Oldest {
		f.Before, f.After = 0, in.Cursor
	}
	entries, err := s.accounts.store.logs[in.Log].Find(ctx, f)
	if err != nil {
		return nil, err
	}
	out := &auditOutput{CacheControl: "no-store", ContentType: "application/json", Vary: []string{"Accept"}}
	if len(entries) > in.Limit {
		entries = entries[:in.Limit]
		stamp := func(t time.Time) string {
			if t.IsZero() {
				return ""
			}
			return t.Format(time.RFC3339Nano)
		}
		out.Link = nextLink("/admin/audit", map[string]string{
			"log": in.Log, "actor": in.Actor, "action": in.Action, "subject": in.Subject, "since": stamp(in.Since), "until": stamp(in.Until),
			"order": in.Order, "cursor": fmt.Sprint(entries[in.Limit-1].Seq), "limit": fmt.Sprint(in.Limit),
		})
	}
	if negotiation.SelectQValue(strings.ToLower(in.Accept), []string{"application/json", typeNDJSON}) == typeNDJSON {
		out.ContentType = typeNDJSON
	}
	for i := range entries {
		if out.Body, err = audit.AppendLine(out.Body, in.Log, &entries[i]); err != nil {
			return nil, err
		}
	}
	if out.ContentType != typeNDJSON {
		out.Body = append(append([]byte("["), bytes.ReplaceAll(bytes.TrimSuffix(out.Body, []byte("\n")), []byte("\n"), []byte(","))...), ']')
	}
	return out, nil
}

// documentAudit says what the bytes of readAudit are.
func (s *Server) documentAudit() {
	document := s.api.Huma.OpenAPI()
	entry := huma.SchemaFromType(document.Components.Schemas, reflect.TypeFor[AuditEntry]())
	document.Paths["/admin/audit"].Get.Responses["200"].Content = map[string]*huma.MediaType{
		"application/json": {Schema: &huma.Schema{Type: huma.TypeArray, Items: entry}},
		typeNDJSON:         {Schema: &huma.Schema{Type: huma.TypeString, Description: "An entry a line"}},
	}
}
