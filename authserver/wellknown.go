package authserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/web"
)

const jwksPath = "/.well-known/jwks.json"

// metadata is what verifiers look up (RFC 8414 §2). It says what this server
// does and nothing that it doesn't: there is no authorization endpoint, so no
// response type. The members of OpenID Connect Discovery are there because
// many verifiers look only at openid-configuration, and only for the issuer
// and the keys.
type metadata struct {
	Issuer              string   `json:"issuer"`
	JWKSURI             string   `json:"jwks_uri"`
	ResponseTypes       []string `json:"response_types_supported"`
	SubjectTypes        []string `json:"subject_types_supported"`
	IDTokenAlgs         []string `json:"id_token_signing_alg_values_supported"`
	Scopes              []string `json:"scopes_supported"`
	ServiceDoc          string   `json:"service_documentation"`
	ClaimsSupported     []string `json:"claims_supported"`
	GrantTypesSupported []string `json:"grant_types_supported"`
	ACRValues           []string `json:"acr_values_supported"`

	TokenEndpoint         string   `json:"token_endpoint"`
	TokenAuth             []string `json:"token_endpoint_auth_methods_supported"`
	TokenAuthAlgs         []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	RevocationEndpoint    string   `json:"revocation_endpoint"`
	RevocationAuth        []string `json:"revocation_endpoint_auth_methods_supported"`
	RevocationAuthAlgs    []string `json:"revocation_endpoint_auth_signing_alg_values_supported"`
	IntrospectionEndpoint string   `json:"introspection_endpoint"`
	IntrospectionAuth     []string `json:"introspection_endpoint_auth_methods_supported"`
	IntrospectionAuthAlgs []string `json:"introspection_endpoint_auth_signing_alg_values_supported"`

	// Of our own: what has ended, as a JWT, and what is new in it, as events.
	RevocationsURI       string `json:"revocations_uri"`
	RevocationsStreamURI string `json:"revocations_stream_uri"`
}

// registerWellKnown serves the key set, the revocations and the metadata. For an issuer with a
// path both places are served that RFC 8414 §3.1 and OpenID Connect
// Discovery §4 name, as they arrive when a proxy doesn't take the path off.
func (s *Server) registerWellKnown() error {
	algs := []string{}
	for _, a := range s.issuer.keys.Policy().Algorithms {
		algs = append(algs, string(a))
	}
	slices.Sort(algs)
	assertions := []string{}
	for _, a := range assertionAlgs {
		assertions = append(assertions, string(a))
	}
	confidential := []string{"client_secret_basic", "client_secret_post", string(PrivateKeyJWT)}
	public := append([]string{"none"}, confidential...)
	body, err := json.Marshal(metadata{
		Issuer: s.issuer.url, JWKSURI: s.issuer.url + jwksPath,
		ResponseTypes: []string{}, SubjectTypes: []string{"public"}, IDTokenAlgs: algs,
		Scopes:              token.Scopes(),
		ServiceDoc:          s.issuer.url + "/docs",
		ClaimsSupported:     []string{"iss", "sub", "aud", "client_id", "exp", "iat", "jti", "sid", "scope", "roles", "auth_time", "acr", "amr"},
		GrantTypesSupported: []string{GrantClientCredentials, GrantRefreshToken, GrantTokenExchange},
		ACRValues:           []string{token.ACRSingleFactor, token.ACRTwoFactors},
		TokenEndpoint:       s.issuer.url + tokenPath, TokenAuth: public, TokenAuthAlgs: assertions,
		RevocationEndpoint: s.issuer.url + revokePath, RevocationAuth: public, RevocationAuthAlgs: assertions,
		IntrospectionEndpoint: s.issuer.url + introspectPath, IntrospectionAuth: confidential, IntrospectionAuthAlgs: assertions,
		RevocationsURI: s.issuer.url + revocationsPath, RevocationsStreamURI: s.issuer.url + streamPath,
	})
	if err != nil {
		return fmt.Errorf("authserver: render the metadata: %w", err)
	}
	maxAge := "public, max-age=" + strconv.Itoa(int(s.issuer.keys.Policy().JWKSMaxAge/time.Second))
	document := web.NewAsset(body, "application/json", map[string]string{
		"Cache-Control": maxAge, "Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin",
	})
	jwks := http.HandlerFunc(s.serveJWKS)

	u, err := url.Parse(s.issuer.url)
	if err != nil {
		return fmt.Errorf("authserver: the issuer is not a URL: %w", err)
	}
	get := func(path, id, summary, contentType string, h http.Handler) {
		s.api.Public(http.MethodGet, path, h)
		content := &huma.MediaType{}
		if contentType != revocationsType { // that is no JSON
			content.Schema = &huma.Schema{Type: huma.TypeObject}
		}
		s.api.Huma.OpenAPI().AddOperation(&huma.Operation{
			OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Tags: []string{"keys"},
			Responses: map[string]*huma.Response{
				"200": {Description: "OK", Content: map[string]*huma.MediaType{contentType: content}},
				"304": {Description: "Not Modified: the ETag in If-None-Match is the present one"},
				"503": {Description: "Service Unavailable: it has not been loaded yet, or is too old"},
			},
		})
	}
	revocations, stream := http.HandlerFunc(s.serveRevocations), http.HandlerFunc(s.streamRevocations)
	get(revocationsPath, "revocations", "What has ended while access tokens of it may live, as a signed JWT", revocationsType, revocations)
	// Not in the OpenAPI document: a client made from it would wait for the end.
	s.api.Public(http.MethodGet, streamPath, stream)
	get(jwksPath, "jwks", "The public keys that tokens are signed with (RFC 7517)", jwksType, jwks)
	get("/.well-known/oauth-authorization-server", "metadata", "Authorization server metadata (RFC 8414)", "application/json", document)
	get("/.well-known/openid-configuration", "openid-configuration", "The same, where OpenID Connect looks for it", "application/json", document)
	if path := strings.TrimSuffix(u.Path, "/"); path != "" {
		s.api.Public(http.MethodGet, "/.well-known/oauth-authorization-server"+path, document)
		s.api.Public(http.MethodGet, path+"/.well-known/openid-configuration", document)
		s.api.Public(http.MethodGet, path+jwksPath, jwks)
		s.api.Public(http.MethodGet, path+revocationsPath, revocations)
		s.api.Public(http.MethodGet, path+streamPath, stream)
	}
	return nil
}

// jwksType is what the keeper's key set says it is (RFC 7517 §8.5.2).
const jwksType = "application/jwk-set+json"

// verifierHeader is how a verifier names itself, in net/http's spelling. With
// the ETag of the set that it holds in If-None-Match it is the evidence by which
// a planned rotation may wait for it.
const verifierHeader = "Urbandata-Verifier"

// fetchCounters count requests for the key set by their If-None-Match. They are
// looked up once: a look-up for each request would cost more than the answer.
type fetchCounters struct{ absent, current, other prometheus.Counter }

func newFetchCounters(reg prometheus.Registerer) fetchCounters {
	fetches := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "urbandata_jwks_fetches_total",
		Help: "Requests for the key set, by the set that the client holds: none, the current one (304), or another.",
	}, []string{"held"})
	reg.MustRegister(fetches)
	return fetchCounters{fetches.WithLabelValues("none"), fetches.WithLabelValues("current"), fetches.WithLabelValues("other")}
}

// jwksFields are the header fields of a key set, made once for each.
type jwksFields struct {
	of                                      *keys.JWKS
	etag, cacheControl, contentType, length []string
}

// rendered returns the fields of a set. Two requests that make them at the same
// time make the same.
func (s *Server) rendered(set *keys.JWKS) *jwksFields {
	if f := s.jwksFields.Load(); f != nil && f.of == set {
		return f
	}
	f := &jwksFields{
		of: set, etag: []string{set.ETag}, cacheControl: []string{set.CacheControl},
		contentType: []string{set.ContentType}, length: []string{strconv.Itoa(len(set.Body))},
	}
	s.jwksFields.Store(f)
	return f
}

// Values of header fields that are always the same; see pkg/web.
var (
	anyOrigin   = []string{"*"}
	crossOrigin = []string{"cross-origin"}
)

// serveJWKS sends the bytes that the keeper rendered when the ring changed.
func (s *Server) serveJWKS(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Access-Control-Allow-Origin"] = anyOrigin
	h["Cross-Origin-Resource-Policy"] = crossOrigin
	set, err := s.issuer.keys.JWKS()
	if err != nil {
		web.NoteCause(r.Context(), err)
		web.Unavailable(time.Second).Write(w, r)
		return
	}
	fields := s.rendered(set)
	shown := r.Header["If-None-Match"]
	if name := r.Header[verifierHeader]; name != nil {
		s.issuer.keys.Saw(name[0], r.Header.Get("If-None-Match"))
	}
	h["Etag"] = fields.etag
	h["Cache-Control"] = fields.cacheControl
	if web.MatchesETag(shown, set.ETag) {
		s.fetches.current.Inc()
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if len(shown) == 0 {
		s.fetches.absent.Inc()
	} else {
		s.fetches.other.Inc()
	}
	h["Content-Type"] = fields.contentType
	h["Content-Length"] = fields.length
	_, _ = w.Write(set.Body) // the client may have left; there is nobody to tell
}
