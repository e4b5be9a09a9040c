package authserver

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

// What administrators do with clients and audiences over HTTP, by the same
// methods of [Clients] as operators on the command line.

// AdminClient is a client as administrators see one.
type AdminClient struct {
	ID        string     `json:"client_id"`
	Name      string     `json:"name"`
	Auth      ClientAuth `json:"auth" enum:"client_secret,private_key_jwt"`
	Grants    []string   `json:"grants" nullable:"false"`
	Scope     string     `json:"scope" doc:"What it may ask for, separated by spaces"`
	Audiences []string   `json:"audiences" nullable:"false" doc:"Whom its tokens may be for"`
	CreatedAt time.Time  `json:"created_at"`
	Disabled  bool       `json:"disabled"`
}

func adminClient(c *Client) AdminClient {
	return AdminClient{c.ID, c.Name, c.Auth, c.Grants, c.Scope.String(), c.Audiences, c.CreatedAt, c.Disabled}
}

// CreatedClient is a client with the secret that is shown once.
type CreatedClient struct {
	AdminClient
	Secret string `json:"client_secret,omitempty" doc:"Shown this once; absent for a client with keys"`
}

// keptSecret is what is kept of an answer with a secret, for a day, to give it
// again to a request that is repeated: the secret is sealed, as second factors
// are.
type keptSecret struct {
	Client AdminClient
	Sealed []byte
	By     string

	secret string // of the first answer; not kept
}

func (s *Server) sealSecret(ctx context.Context, client *Client, secret string) (*keptSecret, error) {
	kept := &keptSecret{Client: adminClient(client), secret: secret}
	if secret == "" || s.accounts.options.Sealer == nil { // without one, an answer that is repeated has no secret
		return kept, nil
	}
	var err error
	kept.Sealed, err = s.accounts.options.Sealer.Seal(ctx, []byte(secret), secretIdentity(client.ID))
	kept.By = s.accounts.options.Sealer.ID()
	if err != nil {
		return nil, fmt.Errorf("seal a client's secret: %w", err)
	}
	return kept, nil
}

func (s *Server) openSecret(ctx context.Context, kept *keptSecret) (string, error) {
	if kept.secret != "" || kept.Sealed == nil {
		return kept.secret, nil
	}
	secret, err := s.accounts.options.Sealer.Open(ctx, kept.By, kept.Sealed, secretIdentity(kept.Client.ID))
	if err != nil {
		return "", fmt.Errorf("open a client's secret: %w", err)
	}
	return string(secret), nil
}

func secretIdentity(id string) []byte { return []byte("secret of client " + id) }

type clientsInput struct {
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at most"`
	After string `query:"after" maxLength:"64" pattern:"^[!-~]+$" doc:"The id of the last one of the page before"`
}

type clientsOutput struct {
	CacheControl string `header:"Cache-Control"`
	Link         string `header:"Link" doc:"rel=next leads to the next page (RFC 8288)"`
	Body         []AdminClient
}

func (s *Server) listClients(ctx context.Context, in *clientsInput) (*clientsOutput, error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	clients, err := s.clients.List(ctx, in.After, in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := &clientsOutput{CacheControl: "no-store", Body: make([]AdminClient, min(len(clients), in.Limit))}
	for i := range out.Body {
		out.Body[i] = adminClient(&clients[i])
	}
	if len(clients) > in.Limit {
		out.Link = nextLink("/admin/clients", map[string]string{"after": clients[in.Limit-1].ID, "limit": fmt.Sprint(in.Limit)})
	}
	return out, nil
}

type createClientInput struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" pattern:"^[!-~]+$" doc:"A text of your own, the same for a repeated request: it is then carried out once"`
	Body           struct {
		Name      string         `json:"name" minLength:"1" maxLength:"150" pattern:"^[^\\x00-\\x1f\\x7f-\\x9f]+$" doc:"What people call it" example:"nightly report"`
		Grants    []string       `json:"grants,omitempty" enum:"client_credentials,refresh_token" minItems:"1" maxItems:"10" doc:"client_credentials if absent"`
		Scope     scopeText      `json:"scope" doc:"What it may ask for, separated by spaces" example:"inmuebles:read"`
		Audiences []audienceText `json:"audiences,omitempty" minItems:"1" maxItems:"100" doc:"Whom its tokens may be for; inmuebles if absent"`
		JWKS      jwks           `json:"jwks,omitempty" doc:"Its public keys (RFC 7517): it signs assertions (private_key_jwt) and has no secret"`
	}
}

// jwks is a JSON object as it stands in a request.
type jwks struct{ text []byte }

// UnmarshalJSON keeps the text; null is none.
func (j *jwks) UnmarshalJSON(b []byte) error {
	if j.text = nil; string(b) != "null" {
		j.text = slices.Clone(b)
	}
	return nil
}

// Schema is that of a key set.
func (jwks) Schema(huma.Registry) *huma.Schema {
	one, most := 1, maxClientKeys
	return &huma.Schema{
		Type: huma.TypeObject, AdditionalProperties: true, Required: []string{"keys"},
		Properties: map[string]*huma.Schema{"keys": {
			Type: huma.TypeArray, MinItems: &one, MaxItems: &most, Items: &huma.Schema{
				Type: huma.TypeObject, AdditionalProperties: true, Required: []string{"kty"},
				Properties: map[string]*huma.Schema{"kty": {Type: huma.TypeString, Enum: []any{"RSA", "EC", "OKP"}}},
			},
		}},
	}
}

// scopeText is names of scopes with single spaces between.
type scopeText string

// Schema names them.
func (scopeText) Schema(huma.Registry) *huma.Schema {
	one, most := 1, 500
	name := "(" + strings.Join(token.Scopes(), "|") + ")"
	s := &huma.Schema{Type: huma.TypeString, MinLength: &one, MaxLength: &most, Pattern: "^" + name + "( " + name + ")*$"}
	s.PrecomputeMessages()
	return s
}

// audienceText is the name of an audience.
type audienceText string

// Schema is as validAudience wants it.
func (audienceText) Schema(huma.Registry) *huma.Schema {
	one, most := 1, maxAudience
	s := &huma.Schema{Type: huma.TypeString, MinLength: &one, MaxLength: &most, Pattern: "^[!-~]+$"}
	s.PrecomputeMessages()
	return s
}

// texts are nil for nil.
func texts(names []audienceText) (all []string) {
	for _, name := range names {
		all = append(all, string(name))
	}
	return all
}

type createdClientOutput struct {
	CacheControl string `header:"Cache-Control"`
	Location     string `header:"Location"`
	Replayed     string `header:"Idempotency-Replayed" doc:"true when this is the answer to an earlier request with the same Idempotency-Key"`
	Body         CreatedClient
}

// createClient is about an id that is chosen before: who takes over from a
// process that died finds the client there, and gives it the secret that
// nobody has been told yet.
func (s *Server) createClient(ctx context.Context, in *createClientInput) (*createdClientOutput, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	b, acting := in.Body, c.acting(ctx)
	kept, replayed, err := idempotently(ctx, s.accounts.store, s.issuer.now(), c.user.ID, in.IdempotencyKey, newClientID(),
		[]any{"create client", b, b.JWKS.text}, func(id string) (*keptSecret, error) {
			if client, err := s.clients.Get(ctx, id); !errors.Is(err, ErrNoClient) {
				secret := ""
				if err == nil && client.Auth == ClientSecret {
					secret, err = s.clients.RotateSecret(acting, id, 0)
				}
				if err != nil {
					return nil, err
				}
				return s.sealSecret(ctx, client, secret)
			}
			client, secret, err := s.clients.Create(acting, NewClient{
				ID: id, Name: b.Name, Grants: b.Grants, Scope: token.ParseScope(string(b.Scope)), Audiences: texts(b.Audiences), JWKS: b.JWKS.text,
			})
			if err != nil {
				return nil, err
			}
			return s.sealSecret(ctx, client, secret)
		})
	if err != nil {
		return nil, err
	}
	return s.createdClient(ctx, kept, replayed)
}

func (s *Server) createdClient(ctx context.Context, kept *keptSecret, replayed bool) (*createdClientOutput, error) {
	secret, err := s.openSecret(ctx, kept)
	if err != nil {
		return nil, err
	}
	out := &createdClientOutput{
		CacheControl: "no-store", Location: "/admin/clients/" + kept.Client.ID, Body: CreatedClient{kept.Client, secret},
	}
	if replayed {
		out.Replayed = "true"
	}
	return out, nil
}

type clientInput struct {
	ID string `path:"id" maxLength:"64" pattern:"^[!-~]+$"`
}

type clientOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         AdminClient
}

func (s *Server) getClient(ctx context.Context, in *clientInput) (*clientOutput, error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	client, err := s.clients.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &clientOutput{"no-store", adminClient(client)}, nil
}

type changeClientInput struct {
	ID   string `path:"id" maxLength:"64" pattern:"^[!-~]+$"`
	Body struct {
		Name      *string        `json:"name,omitempty" minLength:"1" maxLength:"150" pattern:"^[^\\x00-\\x1f\\x7f-\\x9f]+$"`
		Grants    []string       `json:"grants,omitempty" enum:"client_credentials,refresh_token" minItems:"1" maxItems:"10"`
		Scope     *scopeText     `json:"scope,omitempty"`
		Audiences []audienceText `json:"audiences,omitempty" minItems:"1" maxItems:"100"`
		JWKS      jwks           `json:"jwks,omitempty" doc:"Of a client with keys: the ones that take their place"`
		Disabled  *bool          `json:"disabled,omitempty"`
	} `contentType:"application/merge-patch+json"`
}

func (s *Server) changeClient(ctx context.Context, in *changeClientInput) (*clientOutput, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	b := in.Body
	change := ClientChange{Name: b.Name, Grants: b.Grants, Audiences: texts(b.Audiences), JWKS: b.JWKS.text, Disabled: b.Disabled}
	if b.Scope != nil {
		change.Scope = token.ParseScope(string(*b.Scope))
	}
	client, err := s.clients.Change(c.acting(ctx), in.ID, change)
	if err != nil {
		return nil, err
	}
	return &clientOutput{"no-store", adminClient(client)}, nil
}

func (s *Server) removeClient(ctx context.Context, in *clientInput) (*struct{}, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	return nil, s.clients.Remove(c.acting(ctx), in.ID)
}

type rotateSecretInput struct {
	ID             string `path:"id" maxLength:"64" pattern:"^[!-~]+$"`
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" pattern:"^[!-~]+$" doc:"A text of your own, the same for a repeated request: it is then carried out once"`
	Body           struct {
		Overlap *int `json:"overlap,omitempty" minimum:"0" maximum:"2592000" doc:"Seconds for which the secret before goes on; a day if absent, and 0 ends it at once, as when it was stolen"`
	}
}

const defaultOverlap = 24 * time.Hour

// rotateClientSecret is about the secret of the moment: who takes over from a
// process that died drops the one that nobody has been told, and keeps this.
func (s *Server) rotateClientSecret(ctx context.Context, in *rotateSecretInput) (*createdClientOutput, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	client, err := s.clients.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if client.Auth != ClientSecret {
		return nil, ErrNoClient
	}
	overlap := defaultOverlap
	if in.Body.Overlap != nil {
		overlap = time.Duration(*in.Body.Overlap) * time.Second
	}
	kept, replayed, err := idempotently(ctx, s.accounts.store, s.issuer.now(), c.user.ID, in.IdempotencyKey, hex.EncodeToString(client.secret),
		[]any{"rotate secret", in.ID, in.Body}, func(subject string) (*keptSecret, error) {
			found, err := hex.DecodeString(subject)
			if err != nil {
				return nil, fmt.Errorf("read the subject of an idempotency key: %w", err)
			}
			secret, err := s.clients.rotateFrom(c.acting(ctx), in.ID, found, overlap)
			if err != nil {
				return nil, err
			}
			return s.sealSecret(ctx, client, secret)
		})
	if err != nil {
		return nil, err
	}
	return s.createdClient(ctx, kept, replayed)
}

// AdminRegisteredAudience is a registered audience as administrators see one.
type AdminRegisteredAudience struct {
	Name      string    `json:"name" doc:"The aud of its tokens"`
	Alg       string    `json:"alg" example:"RS256"`
	Type      string    `json:"typ" enum:"at+jwt,JWT"`
	TokenLife float64   `json:"token_life" doc:"Seconds; 0 for the server's, and never longer than that"`
	ForUsers  bool      `json:"for_users" doc:"Whether users may ask for its tokens, and not only clients that have it in their list"`
	CreatedAt time.Time `json:"created_at"`
}

func adminAudience(a *RegisteredAudience) AdminRegisteredAudience {
	return AdminRegisteredAudience{a.Name, string(a.Alg), a.Type, a.TokenLife.Seconds(), a.ForUsers, a.CreatedAt.UTC().Truncate(time.Millisecond)}
}

type audiencesOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         []AdminRegisteredAudience
}

func (s *Server) listAudiences(ctx context.Context, _ *struct{}) (*audiencesOutput, error) {
	if _, err := s.administrator(ctx); err != nil {
		return nil, err
	}
	list, err := s.clients.Audiences(ctx)
	if err != nil {
		return nil, err
	}
	out := &audiencesOutput{CacheControl: "no-store", Body: make([]AdminRegisteredAudience, len(list))}
	for i := range list {
		out.Body[i] = adminAudience(&list[i])
	}
	return out, nil
}

type createAudienceInput struct {
	Body struct {
		Name      string `json:"name" minLength:"1" maxLength:"200" pattern:"^[!-~]+$" doc:"The aud of its tokens" example:"https://maps.example"`
		Alg       string `json:"alg,omitempty" enum:"RS256,EdDSA" doc:"RS256 if absent"`
		Type      string `json:"typ,omitempty" enum:"at+jwt,JWT" doc:"at+jwt if absent; JWT for Nimbus and Spring Security with their defaults"`
		TokenLife int    `json:"token_life,omitempty" minimum:"0" maximum:"86400" doc:"Seconds; 0 for the server's, and never longer than that"`
		ForUsers  *bool  `json:"for_users,omitempty" doc:"Whether users may ask for its tokens; true if absent"`
	}
}

type createdAudienceOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         AdminRegisteredAudience
}

func (s *Server) createAudience(ctx context.Context, in *createAudienceInput) (*createdAudienceOutput, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	b := in.Body
	a := RegisteredAudience{
		Name: b.Name, Alg: jose.SignatureAlgorithm(b.Alg), Type: b.Type, TokenLife: time.Duration(b.TokenLife) * time.Second, ForUsers: b.ForUsers == nil || *b.ForUsers,
	}
	if a.Alg == "" {
		a.Alg = otherAudience.Alg
	}
	if a.Type == "" {
		a.Type = otherAudience.Type
	}
	if !slices.Contains(s.issuer.keys.Policy().Algorithms, a.Alg) {
		return nil, web.Invalid(web.AtMember("/alg", "must be an algorithm of which this server has keys"))
	}
	created, err := s.clients.AddAudience(c.acting(ctx), a)
	if err != nil {
		return nil, err
	}
	return &createdAudienceOutput{"no-store", adminAudience(created)}, s.issuer.audiences.reload(ctx)
}

type audienceInput struct {
	Name string `path:"name" maxLength:"200" pattern:"^[!-~]+$" doc:"Percent-encoded where it has a slash"`
}

func (s *Server) removeAudience(ctx context.Context, in *audienceInput) (*struct{}, error) {
	c, err := s.administrator(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.clients.RemoveAudience(c.acting(ctx), in.Name); err != nil {
		return nil, err
	}
	return nil, s.issuer.audiences.reload(ctx)
}
