package cli

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/pkg/forwardauth"
	"github.com/urbandata/urbandata/pkg/verify"
)

type verifyProxyCmd struct {
	Listen             string        `default:"127.0.0.1:8002" placeholder:"ADDRESS" env:"URBANDATA_PROXY_LISTEN" help:"Where to listen. (${env}, ${default})"`
	Issuer             string        `default:"http://127.0.0.1:8000" placeholder:"URL" env:"URBANDATA_PROXY_ISSUER" help:"The iss that tokens must have, byte for byte. (${env}, ${default})"`
	JWKSURL            string        `name:"jwks-url" placeholder:"URL" env:"URBANDATA_PROXY_JWKS_URL" help:"Where the issuer's keys are fetched; the issuer's /.well-known/jwks.json if not set. (${env})"`
	AllowHTTP          bool          `name:"allow-http-jwks" env:"URBANDATA_PROXY_ALLOW_HTTP_JWKS" help:"Fetch the keys without TLS from another machine. Who can write to the network between can then make any token. (${env})"`
	JWKSCacheFile      string        `name:"jwks-cache-file" placeholder:"PATH" env:"URBANDATA_PROXY_JWKS_CACHE_FILE" help:"Keep the last good key set here, so that this server can start while the issuer is down. Each replica needs its own. (${env})"`
	VerifierName       string        `placeholder:"NAME" env:"URBANDATA_PROXY_VERIFIER_NAME" help:"What this server is called when it asks the issuer for keys: up to 64 visible ASCII characters. (${env}, verify-proxy@HOSTNAME)"`
	TokenCacheMB       int64         `name:"token-cache-mb" default:"16" placeholder:"N" env:"URBANDATA_PROXY_TOKEN_CACHE_MB" help:"Memory for verified tokens, in MiB; 0 verifies each token anew with every request. (${env}, ${default})"`
	Audience           string        `placeholder:"NAME" env:"URBANDATA_PROXY_AUDIENCE" help:"The aud that tokens must have: the name of what stands behind the reverse proxy. Needed. (${env})"`
	Scope              []string      `placeholder:"SCOPE" env:"URBANDATA_PROXY_SCOPES" help:"A scope that every token must have, besides those that the reverse proxy asks for. Repeatable; several with , between. (${env})"`
	Revocations        string        `default:"auto" placeholder:"auto|off|URL" env:"URBANDATA_PROXY_REVOCATIONS" help:"Where the issuer says which sessions have ended, so that their tokens are refused within a second: auto looks beside the keys, and does without if there is nothing; off does without. (${env}, ${default})"`
	RevocationsSilence time.Duration `default:"0s" placeholder:"DURATION" env:"URBANDATA_PROXY_REVOCATIONS_SILENCE" help:"For how long tokens are taken while the issuer says nothing; then all are refused. 0 for the life of a token, -1s for ever. (${env}, ${default})"`
	MetricsListen      string        `default:"127.0.0.1:9002" placeholder:"ADDRESS" env:"URBANDATA_METRICS_LISTEN" help:"Where to serve /metrics and /debug/pprof; off for nowhere. (${env}, ${default})"`
	Drain              drainFlags    `embed:"" prefix:"drain-"`
}

// Help is shown by --help.
func (*verifyProxyCmd) Help() string {
	return `
A reverse proxy asks /verify about each request (nginx auth_request, Traefik forwardAuth, Caddy forward_auth; Envoy ext_authz asks /ext_authz). 200 lets it through, with X-Auth-Subject, X-Auth-Client, X-Auth-Scope, X-Auth-Roles and X-Auth-Expires for the upstream; 401, 403 and 503 don't. /verify?scope=a+b asks for scopes too. The reverse proxy must overwrite those five headers; docs/verify-proxy.md has configurations that do.

  urbandata verify-proxy --issuer https://id.example --audience your-name`
}

// Run serves until SIGTERM.
func (c *verifyProxyCmd) Run(p *program, l *logging) error {
	log := l.logger(p)
	if err := authserver.CheckIssuer(c.Issuer); err != nil {
		return wrongSetting("--issuer (URBANDATA_PROXY_ISSUER)", "%s", err)
	}
	if c.Audience == "" {
		return wrongSetting("--audience (URBANDATA_PROXY_AUDIENCE)",
			"it is not set, and without it a token for somebody else would work; set it to the name for which your clients ask for tokens")
	}
	if c.JWKSURL == "" {
		c.JWKSURL = c.Issuer + jwksPath
	}
	if c.VerifierName == "" {
		c.VerifierName = verifierName("verify-proxy")
	}
	if c.JWKSCacheFile != "" {
		if folder, err := os.Stat(filepath.Dir(c.JWKSCacheFile)); err != nil || !folder.IsDir() {
			return wrongSetting("--jwks-cache-file (URBANDATA_PROXY_JWKS_CACHE_FILE)", "its folder doesn't exist; make it, or name a file in one that does")
		}
	}
	if c.TokenCacheMB < 0 || c.TokenCacheMB > maxTokenCacheMB {
		return wrongSetting("--token-cache-mb (URBANDATA_PROXY_TOKEN_CACHE_MB)", "%d is not from 0 to %d", c.TokenCacheMB, maxTokenCacheMB)
	}
	o := verify.Options{
		Issuer: c.Issuer, Audience: c.Audience, JWKSURL: c.JWKSURL, AllowHTTP: c.AllowHTTP, Logger: log,
		Name: c.VerifierName, TokenCacheBytes: c.TokenCacheMB << 20,
		Cache: verify.CacheOptions{File: c.JWKSCacheFile},
	}
	if err := follow(&o, log, "URBANDATA_PROXY", c.Revocations, c.RevocationsSilence); err != nil {
		return err
	}
	verifier, err := verify.New(o)
	if err != nil {
		return wrongSetting("--jwks-url (URBANDATA_PROXY_JWKS_URL), --revocations (URBANDATA_PROXY_REVOCATIONS) or --verifier-name (URBANDATA_PROXY_VERIFIER_NAME)", "%s", err)
	}
	g := newGroup(log)
	registerVerifierMetrics(g.metrics, verifier)
	server, err := forwardauth.New(forwardauth.Options{
		Verifier: verifier, Realm: c.Audience, Scopes: c.Scope, Log: log, Metrics: g.metrics,
	})
	if err != nil {
		return wrongSetting("--scope (URBANDATA_PROXY_SCOPES)", "%s", err)
	}
	listener, err := listen(p, "--listen (URBANDATA_PROXY_LISTEN)", c.Listen)
	if err != nil {
		return err
	}
	if err := g.listenDebug(p, c.MetricsListen, "127.0.0.1:9002"); err != nil {
		return errors.Join(err, listener.Close())
	}
	g.background = append(g.background, verifier.Run)
	g.serve("verify-proxy", listener, server, server.Health, c.Drain)
	log.Info("verify-proxy is up", slog.String("address", listener.Addr().String()), slog.String("keys", c.JWKSURL))
	return g.run(p.ctx)
}
