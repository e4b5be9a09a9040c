package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humamux"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// The media type of a [Problem] (RFC 9457 §3).
const problemType = "application/problem+json"

// Limits on what an error answer says, so that a hostile body of a million
// wrong members can't make a million lines.
const (
	maxFieldErrors   = 20
	maxPointerLength = 256
)

// Problem is the one shape of an error answer (RFC 9457). It is an error, so
// a handler returns it like any other. Its texts are English until it is
// written, in the language that the request prefers.
type Problem struct {
	Type   string       `json:"type" doc:"What kind of problem this is; about:blank means that title and status say it all" example:"about:blank"`
	Title  i18n.Text    `json:"title" doc:"The status in words" example:"Unprocessable Entity"`
	Status int          `json:"status" doc:"The HTTP status" example:"422"`
	Code   string       `json:"code" doc:"The problem's name, the same in every language" example:"validation_failed"`
	Detail i18n.Text    `json:"detail" doc:"What went wrong, for a person, in the language of Content-Language" example:"The request has members that are not valid."`
	Errors []FieldError `json:"errors,omitempty" nullable:"false" doc:"What is wrong with which member, parameter or header"`

	// The members of RFC 6749 §5.2, at the endpoints that issue tokens.
	// The description is English in every language: it is ASCII by §5.2.
	OAuthError       string `json:"error,omitempty" doc:"RFC 6749 error code, at the endpoints that issue tokens" example:"invalid_request"`
	OAuthDescription string `json:"error_description,omitempty" doc:"RFC 6749 error description: detail in English"`

	// What PostgREST's clients show, where Info.PostgREST is set.
	Message i18n.Text `json:"message,omitempty" doc:"The same as detail, for clients of PostgREST"`
	Details i18n.Text `json:"details,omitempty" doc:"What is wrong with what, in one line, for clients of PostgREST"`
	Hint    i18n.Text `json:"hint,omitempty" doc:"What to send instead"`

	header http.Header
}

// FieldError says what is wrong with one part of the request. Exactly one of
// Pointer, Parameter and Header is set. The value itself is never repeated:
// it may be a secret.
type FieldError struct {
	Pointer   *string   `json:"pointer,omitzero" required:"false" doc:"JSON Pointer (RFC 6901) to the member of the body; the empty string is the whole body" example:"/x_coord"`
	Parameter string    `json:"parameter,omitempty" doc:"Name of the query or path parameter" example:"limit"`
	Header    string    `json:"header,omitempty" doc:"Name of the header field"`
	Detail    i18n.Text `json:"detail" doc:"What is wrong with it" example:"must be a number between -180 and 180"`
}

// AtMember is a [FieldError] about a member of the body, by JSON Pointer.
func AtMember(pointer string, detail i18n.Text) FieldError {
	if len(pointer) > maxPointerLength {
		pointer = strings.ToValidUTF8(pointer[:maxPointerLength], "") + "…"
	}
	return FieldError{Pointer: &pointer, Detail: detail}
}

// AtParameter is a [FieldError] about a query or path parameter.
func AtParameter(name string, detail i18n.Text) FieldError {
	if len(name) > maxPointerLength {
		name = strings.ToValidUTF8(name[:maxPointerLength], "") + "…"
	}
	return FieldError{Parameter: name, Detail: detail}
}

// NewProblem makes a problem. code is its name in any language (snake_case),
// detail a sentence for a person, constant or made from what the client may
// know.
func NewProblem(status int, code string, detail i18n.Text, errs ...FieldError) *Problem {
	return &Problem{
		Type: "about:blank", Title: statusText(status), Status: status,
		Code: code, Detail: detail, Errors: errs,
	}
}

// Invalid is the problem of a request that is understood but not valid: 422.
func Invalid(errs ...FieldError) *Problem {
	return NewProblem(http.StatusUnprocessableEntity, "validation_failed",
		"The request is not valid: see errors.", errs...)
}

// Unavailable is the problem of a service that can't answer now but will: 503
// with Retry-After.
func Unavailable(retryAfter time.Duration) *Problem {
	return NewProblem(http.StatusServiceUnavailable, "unavailable",
		"The service can't answer this just now. Try again later.").
		With("Retry-After", strconv.Itoa(int(max(retryAfter, time.Second)/time.Second)))
}

// Internal hides err from the client and gives it to the request's log line.
// It is what a service's error mapping ends with. A request that the client
// gave up is answered 499 (nobody reads it, but it is no fault of ours), one
// that ran out of time 503.
func Internal(ctx context.Context, err error) *Problem {
	NoteCause(ctx, err)
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return NewProblem(statusClientClosed, "client_closed", "The client closed the request.")
	case errors.Is(err, context.DeadlineExceeded), ctx.Err() != nil:
		return Unavailable(time.Second)
	}
	return NewProblem(http.StatusInternalServerError, "internal",
		"Something went wrong here. The request id in the X-Request-Id header finds it in the log.")
}

// statusClientClosed is what nginx logs for a client that left.
const statusClientClosed = 499

func statusText(status int) i18n.Text {
	if status == statusClientClosed {
		return "Client Closed Request"
	}
	return i18n.Foreign(http.StatusText(status))
}

// With adds a header field to the answer.
func (p *Problem) With(name, value string) *Problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Add(name, value)
	return p
}

// in is the problem in a language, for a client of PostgREST or for any.
func (p *Problem) in(l *i18n.Language, postgREST bool) *Problem {
	out := *p
	for _, t := range []*i18n.Text{&out.Title, &out.Detail, &out.Details, &out.Hint} {
		*t = l.Translate(*t)
	}
	var all []string
	out.Errors = slices.Clone(p.Errors)
	for i := range out.Errors {
		e := &out.Errors[i]
		e.Detail = l.Translate(e.Detail)
		all = append(all, strings.TrimSpace(e.where()+" "+e.Detail.String()))
	}
	if postgREST {
		out.Message = out.Detail
		if out.Details == "" {
			out.Details = i18n.Foreign(strings.Join(all, "; "))
		}
	}
	return &out
}

// Error is the detail in English, so that a problem can be returned and logged.
func (p *Problem) Error() string { return p.Detail.String() }

// GetStatus makes a problem a huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// setHeaders sets the problem's header fields in place of whatever was set
// before it was found. No cache is to keep an error. What the answer varies by
// already, it goes on to.
func (p *Problem) setHeaders(l *i18n.Language, set, add func(name, value string)) {
	set("Cache-Control", "no-store")
	for name, values := range p.header {
		set(name, strings.Join(values, ", "))
	}
	set("Content-Language", l.Tag)
	add("Vary", acceptLanguage)
}

const acceptLanguage = "Accept-Language"

// writeProblems is a huma.Transformer: every problem passes here on its way
// out, whoever found it.
func writeProblems(postgREST bool) huma.Transformer {
	return func(ctx huma.Context, _ string, v any) (any, error) {
		p, ok := v.(*Problem)
		if !ok {
			return v, nil
		}
		r, _ := humamux.Unwrap(ctx)
		l := i18n.Choose(r.Header[acceptLanguage])
		p.setHeaders(l, ctx.SetHeader, ctx.AppendHeader)
		return p.in(l, postgREST), nil
	}
}

// ContentType makes every problem go out as problem+json.
func (p *Problem) ContentType(string) string { return problemType }

// Write sends the problem from a plain http.Handler, as the answer to r.
func (p *Problem) Write(w http.ResponseWriter, r *http.Request) {
	l := i18n.Choose(r.Header[acceptLanguage])
	h := w.Header()
	p.setHeaders(l, h.Set, h.Add)
	h.Set("Content-Type", problemType)
	body, err := marshal(p.in(l, false))
	if err != nil { // plain strings and numbers: it can't
		panic(err)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the client may have left; there is nobody to tell
}

// ForOAuth gives the problem the members of RFC 6749 §5.2, and its 400 where
// a plain API says 422.
func (p *Problem) ForOAuth() *Problem {
	if p.Status == http.StatusUnprocessableEntity {
		p.Status, p.Title = http.StatusBadRequest, statusText(http.StatusBadRequest)
	}
	if p.OAuthError == "" {
		switch {
		case p.Status >= 500:
			p.OAuthError = "server_error"
			if p.Status == http.StatusServiceUnavailable {
				p.OAuthError = "temporarily_unavailable"
			}
		default:
			p.OAuthError = "invalid_request"
		}
	}
	p.OAuthDescription = p.Detail.String()
	return p
}

// OAuth marks an operation whose errors also carry the members of RFC 6749
// §5.2: Operation{Metadata: web.OAuth}. A problem that the operation's own
// function returns goes through [Problem.ForOAuth] there.
var OAuth = map[string]any{oauthKey: true}

const oauthKey = "urbandata.oauth"

// huma takes its error type, its case rule and its formatter from package
// variables. Every API in this program wants the same, so they are set once,
// here. The formatter keeps a message's arguments apart, for fieldError.
func init() {
	huma.ErrorFormatter = func(format string, args ...any) string { return i18n.Keep(format, args...) }
	huma.ValidateStrictCasing = true // else {"title":"ok","TITLE":""} passes validation
	huma.DefaultArrayNullable = false
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return fromHuma(context.Background(), status, message, errs)
	}
	huma.NewErrorWithContext = func(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
		if ctx == nil { // huma asks for an example while it draws up the document
			return fromHuma(context.Background(), status, message, errs)
		}
		p := fromHuma(ctx.Context(), status, message, errs)
		if op := ctx.Operation(); op != nil && op.Metadata[oauthKey] != nil {
			p = p.ForOAuth()
		}
		return p
	}
}

// fromHuma turns what huma found into a problem. A *Problem among errs (our
// body reader's, a handler's) is the answer as it stands.
func fromHuma(ctx context.Context, status int, message string, errs []error) *Problem {
	var fields []FieldError
	for _, err := range errs {
		var p *Problem
		if errors.As(err, &p) {
			return p
		}
		var d huma.ErrorDetailer
		if errors.As(err, &d) {
			if len(fields) < maxFieldErrors {
				fields = append(fields, fieldError(d.ErrorDetail()))
			}
		} else if status >= 500 {
			return Internal(ctx, err)
		}
	}
	slices.SortStableFunc(fields, func(a, b FieldError) int { return strings.Compare(a.where(), b.where()) })
	code, detail := "invalid_request", i18n.Foreign(message)
	switch status {
	case http.StatusBadRequest:
		code, detail = "malformed", "The body is not what it should be: see errors."
		if len(fields) == 0 {
			detail = "The request needs a body."
		}
	case http.StatusUnprocessableEntity:
		return Invalid(fields...)
	case http.StatusRequestEntityTooLarge:
		code, detail = "too_large", "The body is too large."
	case http.StatusRequestTimeout:
		code, detail = "timeout", "The body didn't arrive in time."
	case http.StatusUnsupportedMediaType:
		code = "unsupported_media_type"
	case http.StatusNotAcceptable:
		code, detail = "not_acceptable", "Only application/json can be had here."
	}
	return NewProblem(status, code, detail, fields...)
}

// where orders errors: huma finds unknown members in map order.
func (f FieldError) where() string {
	if f.Pointer != nil {
		return *f.Pointer
	}
	return f.Parameter + f.Header
}

// fieldError turns huma's location ("body.a[0].b", "query.limit") into a
// pointer or a name, and drops the value.
func fieldError(d *huma.ErrorDetail) FieldError {
	in, rest, _ := strings.Cut(d.Location, ".")
	if i := strings.IndexByte(in, '['); i >= 0 { // "body[0].title"
		in, rest = in[:i], d.Location[i:]
	}
	message := reword(d.Message)
	switch in {
	case "query", "path":
		return AtParameter(rest, message)
	case "header", "cookie":
		return FieldError{Header: rest, Detail: message}
	}
	if pointer, reason, ok := splitDecodeError(d.Message); ok {
		return AtMember(pointer, reason)
	}
	pointer := ""
	if rest != "" {
		pointer = "/" + strings.NewReplacer("~", "~0", "/", "~1", ".", "/", "[", "/", "]", "").Replace(strings.TrimPrefix(rest, "["))
	}
	format, args := message.Parts()
	switch {
	case format == validation.MsgUnexpectedProperty:
		message = "is not a known member"
	case format == validation.MsgExpectedRequiredProperty && len(args) == 1:
		// huma reports a missing member at its parent and names it in the text.
		pointer, message = pointer+"/"+escapePointer(fmt.Sprint(args[0])), "is required"
	case strings.HasSuffix(format, parsersText):
		message = i18n.Foreign(strings.TrimSuffix(format, parsersText))
	}
	return AtMember(pointer, message)
}

// reword is huma's message about a parameter without the text of a parser, which
// may tell of the value.
func reword(message string) i18n.Text {
	if strings.HasPrefix(message, "invalid value: ") {
		return "is not valid"
	}
	if layout, ok := strings.CutPrefix(message, "invalid date/time for format "); ok {
		return i18n.Textf("must be a time, written as %s", layout)
	}
	return i18n.Foreign(message)
}

// parsersText is where huma puts the text of a parser, which is about the value.
const parsersText = ": %v"

// escapePointer escapes a member name for a JSON Pointer (RFC 6901 §3).
func escapePointer(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}
