package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/resourceserver"
)

const (
	defaultIssuer = "http://127.0.0.1:8000"
	jwksPath      = "/.well-known/jwks.json"
)

type resourceserverCmd struct {
	Listen         string   `default:"127.0.0.1:8001" placeholder:"ADDRESS" env:"URBANDATA_API_LISTEN" help:"Where to listen. (${env}, ${default})"`
	Issuer         string   `default:"http://127.0.0.1:8000" placeholder:"URL" env:"URBANDATA_API_ISSUER" help:"The iss that tokens must have, byte for byte. (${env}, ${default})"`
	JWKSURL        string   `name:"jwks-url" placeholder:"URL" env:"URBANDATA_API_JWKS_URL" help:"Where the issuer's keys are fetched; the issuer's /.well-known/jwks.json if not set. (${env})"`
	AllowHTTP      bool     `name:"allow-http-jwks" env:"URBANDATA_API_ALLOW_HTTP_JWKS" help:"Fetch the keys without TLS from another machine. Who can write to the network between can then make any token. (${env})"`
	JWKSCacheFile  string   `name:"jwks-cache-file" placeholder:"PATH" env:"URBANDATA_API_JWKS_CACHE_FILE" help:"Keep the last good key set here, so that this server can start while the issuer is down. Each replica needs its own. (${env})"`
	VerifierName   string   `placeholder:"NAME" env:"URBANDATA_API_VERIFIER_NAME" help:"What this server is called when it asks the issuer for keys: up to 64 visible ASCII characters. (${env}, inmuebles@HOSTNAME)"`
	TokenCacheMB   int64    `name:"token-cache-mb" default:"16" placeholder:"N" env:"URBANDATA_API_TOKEN_CACHE_MB" help:"Memory for verified tokens, in MiB; 0 verifies each token anew with every request. (${env}, ${default})"`
	Audience       string   `default:"inmuebles" placeholder:"NAME" env:"URBANDATA_API_AUDIENCE" help:"The aud that tokens must have. (${env}, ${default})"`
	CORSOrigin     []string `name:"cors-origin" placeholder:"ORIGIN" env:"URBANDATA_CORS_ORIGINS" help:"Let pages of this origin call the API from a browser, such as https://map.example. Repeatable; several with , between. (${env})"`
	inmueblesFlags `embed:""`

	MetricsListen string     `default:"127.0.0.1:9001" placeholder:"ADDRESS" env:"URBANDATA_METRICS_LISTEN" help:"Where to serve /metrics and /debug/pprof; off for nowhere. (${env}, ${default})"`
	Drain         drainFlags `embed:"" prefix:"drain-"`

	inmueblesDatabase `embed:""`
}

// inmueblesFlags are the settings of the API, however it is run.
type inmueblesFlags struct {
	RequireIfMatch bool `env:"URBANDATA_API_REQUIRE_IF_MATCH" help:"Refuse a PUT, PATCH or DELETE without If-Match (428), so that nobody overwrites what they haven't seen. (${env})"`

	Revocations        string        `default:"auto" placeholder:"auto|off|URL" env:"URBANDATA_API_REVOCATIONS" help:"Where the issuer says which sessions have ended, so that their tokens are refused within a second: auto looks beside the keys, and does without if there is nothing; off does without. (${env}, ${default})"`
	RevocationsSilence time.Duration `default:"0s" placeholder:"DURATION" env:"URBANDATA_API_REVOCATIONS_SILENCE" help:"For how long tokens are taken while the issuer says nothing; then all are refused. 0 for the life of a token, -1s for ever. (${env}, ${default})"`
	ImportMaxMB        int64         `name:"import-max-mb" default:"512" placeholder:"N" env:"URBANDATA_API_IMPORT_MAX_MB" help:"How large a file may be that is imported over HTTP, in MiB, as it is sent. (${env}, ${default})"`
	ImportKeep         time.Duration `default:"168h" env:"URBANDATA_API_IMPORT_KEEP" help:"How long what became of an import over HTTP can be looked at. (${env}, ${default})"`

	catalogueFlag `embed:""`
}

// limits are those of imports over HTTP.
func (f *inmueblesFlags) limits() (resourceserver.ImportLimits, error) {
	const most = 1 << 20 // MiB
	if f.ImportMaxMB < 1 || f.ImportMaxMB > most {
		return resourceserver.ImportLimits{}, wrongSetting("--import-max-mb (URBANDATA_API_IMPORT_MAX_MB)", "%d is not from 1 to %d", f.ImportMaxMB, most)
	}
	if f.ImportKeep < time.Minute {
		return resourceserver.ImportLimits{}, wrongSetting("--import-keep (URBANDATA_API_IMPORT_KEEP)", "%s is less than a minute", f.ImportKeep)
	}
	return resourceserver.ImportLimits{MaxBytes: f.ImportMaxMB << 20, Keep: f.ImportKeep}, nil
}

// catalogueFlag is the setting of whatever takes codes in.
type catalogueFlag struct {
	Catalogue string `type:"path" placeholder:"FILE" env:"URBANDATA_API_CATALOGUE" help:"JSON file with the codes that fields may have, and what they mean. All if not set. (${env})"`
}

// read reads the file, if there is one.
func (f *catalogueFlag) read() (*resourceserver.Catalogues, error) {
	const setting = "--catalogue (URBANDATA_API_CATALOGUE)"
	if f.Catalogue == "" {
		return nil, nil //nolint:nilnil // the nil catalogues are those that allow all
	}
	file, err := os.Open(f.Catalogue)
	if err != nil {
		return nil, wrongSetting(setting, "%s can't be read (%s); \"urbandata import --infer-catalogue\" drafts one", f.Catalogue, reason(err))
	}
	defer func() { _ = file.Close() }() // only read
	c, err := resourceserver.ReadCatalogues(file)
	if err != nil {
		return nil, wrongSetting(setting, "%s: %s", f.Catalogue, strings.TrimPrefix(err.Error(), "resourceserver: "))
	}
	return c, nil
}

// inmueblesDatabase is the setting of commands that work on the database of
// inmuebles.
type inmueblesDatabase struct {
	Database string `placeholder:"URL" env:"URBANDATA_API_DATABASE" help:"sqlite:PATH or mongodb://…; with a password only from ${env} or ${env}_FILE. (sqlite:DATA-DIR/inmuebles.db)"`
	DataDir  string `default:"${datadir}" placeholder:"PATH" env:"URBANDATA_DATA_DIR" help:"Folder of the SQLite file when no database is named. (${env}, ${default})"`
}

func (d *inmueblesDatabase) url(p *program) (string, error) {
	return p.databaseURL(apiSetting, d.Database, apiFile(d.DataDir), database.SQLite, database.MongoDB)
}

// Help is shown by --help.
func (*resourceserverCmd) Help() string {
	return `
Tokens are verified with the issuer's public keys, fetched ahead of need and kept. No request waits for the issuer, and no secret is shared with it.

  URBANDATA_API_DATABASE_FILE=/run/secrets/api-database \
  urbandata resourceserver --listen 0.0.0.0:8001 --issuer https://id.example`
}

// Run serves until SIGTERM.
func (c *resourceserverCmd) Run(p *program, l *logging) error {
	log := l.logger(p)
	url, err := c.url(p)
	if err != nil {
		return err
	}
	if err := authserver.CheckIssuer(c.Issuer); err != nil {
		return wrongSetting("--issuer (URBANDATA_API_ISSUER)", "%s", err)
	}
	if c.JWKSURL == "" {
		c.JWKSURL = c.Issuer + jwksPath
	}
	if c.VerifierName == "" {
		c.VerifierName = verifierName("inmuebles")
	}
	if c.JWKSCacheFile != "" {
		if folder, err := os.Stat(filepath.Dir(c.JWKSCacheFile)); err != nil || !folder.IsDir() {
			return wrongSetting("--jwks-cache-file (URBANDATA_API_JWKS_CACHE_FILE)", "its folder doesn't exist")
		}
	}
	if c.TokenCacheMB < 0 || c.TokenCacheMB > maxTokenCacheMB {
		return wrongSetting("--token-cache-mb (URBANDATA_API_TOKEN_CACHE_MB)", "%d is not from 0 to %d", c.TokenCacheMB, maxTokenCacheMB)
	}
	listener, err := listen(p, "--listen (URBANDATA_API_LISTEN)", c.Listen)
	if err != nil {
		return err
	}
	g := newGroup(log)
	if err := g.listenDebug(p, c.MetricsListen, "127.0.0.1:9001"); err != nil {
		return err
	}
	err = g.addInmuebles(p, verify.Options{
		Issuer: c.Issuer, Audience: c.Audience, JWKSURL: c.JWKSURL, AllowHTTP: c.AllowHTTP, Logger: log,
		Name: c.VerifierName, TokenCacheBytes: c.TokenCacheMB << 20,
		Cache: verify.CacheOptions{File: c.JWKSCacheFile},
	}, &c.inmueblesFlags, url, listener, c.Drain, c.CORSOrigin)
	if err != nil {
		return errors.Join(err, g.close())
	}
	log.Info("inmuebles is up", slog.String("address", listener.Addr().String()), slog.String("keys", c.JWKSURL))
	return g.run(p.ctx)
}

// maxTokenCacheMB is far more than a replica has users for.
const maxTokenCacheMB = 4096

// verifierName tells the replicas of one service apart.
func verifierName(service string) string {
	host, err := os.Hostname()
	name := service + "@" + host
	if err != nil || host == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return service
	}
	return name
}

// addInmuebles opens the database of inmuebles, brings it up to date, and adds
// the verifier and the server to the group.
func (g *group) addInmuebles(p *program, o verify.Options, f *inmueblesFlags, url string, l net.Listener, drain drainFlags, origins []string) error {
	catalogues, err := f.read()
	if err != nil {
		return err
	}
	if err := follow(&o, g.log, "URBANDATA_API", f.Revocations, f.RevocationsSilence); err != nil {
		return err
	}
	limits, err := f.limits()
	if err != nil {
		return err
	}
	verifier, err := verify.New(o)
	if err != nil {
		return wrongSetting("--jwks-url (URBANDATA_API_JWKS_URL), --revocations (URBANDATA_API_REVOCATIONS), --audience (URBANDATA_API_AUDIENCE) or --verifier-name (URBANDATA_API_VERIFIER_NAME)", "%s", err)
	}
	registerVerifierMetrics(g.metrics, verifier)
	store, closer, err := openInmuebles(p.ctx, url)
	if err != nil {
		return err
	}
	g.closers = append(g.closers, closer)
	cursorKey, err := store.CursorKey(p.ctx)
	if err != nil {
		return err
	}
	server, err := resourceserver.New(resourceserver.Options{
		Store: store, Verifier: verifier, Log: g.log, Metrics: g.metrics, Version: version(), Origins: origins,
		RequireIfMatch: f.RequireIfMatch, CursorKey: cursorKey, Catalogues: catalogues,
		Jobs: store, Imports: limits,
	})
	if err != nil {
		return err
	}
	g.background = append(g.background, verifier.Run, server.Run, store.Run)
	g.serve("inmuebles", l, server, server.Health, drain)
	return nil
}

// inmueblesStore is a store with the secret that its servers share.
type inmueblesStore interface {
	resourceserver.Store
	resourceserver.JobStore
	resourceserver.Checker
	CursorKey(ctx context.Context) ([]byte, error)
	Run(ctx context.Context) error
}

// openInmuebles opens the store that a URL names, migrated.
func openInmuebles(ctx context.Context, url string) (inmueblesStore, func() error, error) {
	if kind, err := database.KindOf(url); err == nil && kind == database.MongoDB {
		db, err := database.OpenMongo(ctx, url)
		if err != nil {
			return nil, nil, apiSetting.wrong(err)
		}
		store := resourceserver.NewMongo(db)
		disconnect := func() error { return db.Client().Disconnect(context.WithoutCancel(ctx)) }
		if err := store.Prepare(ctx); err != nil {
			return nil, nil, errors.Join(err, disconnect())
		}
		return store, disconnect, nil
	}
	db, err := database.OpenSQL(ctx, url, database.Normal)
	if err != nil {
		return nil, nil, apiSetting.wrong(err)
	}
	if _, err := migrations.Up(ctx, db.Write.DB, migrations.InmueblesSQLite); err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	store, err := resourceserver.NewSQLite(ctx, db.Write, db.Read)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open the store of inmuebles: %w", err), db.Close())
	}
	return store, func() error { return errors.Join(store.Close(), db.Close()) }, nil
}

// registerVerifierMetrics shows how a verifier stands with its keys and tokens.
func registerVerifierMetrics(reg prometheus.Registerer, v *verify.Verifier) {
	gauge := func(name, help string, value func(verify.Stats) float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "urbandata_" + name, Help: help},
			func() float64 { return value(v.Stats()) }))
	}
	counter := func(name, help string, value func(verify.Stats) float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "urbandata_" + name, Help: help},
			func() float64 { return value(v.Stats()) }))
	}
	gauge("keyset_keys", "Public keys held, by which tokens are verified.", func(s verify.Stats) float64 { return float64(s.Keys) })
	gauge("keyset_age_seconds", "Time since the issuer last confirmed the key set.", func(s verify.Stats) float64 { return s.Age.Seconds() })
	gauge("token_cache_bytes", "Memory taken by verified tokens.", func(s verify.Stats) float64 { return float64(s.TokenBytes) })
	counter("token_cache_stored_total", "Tokens that were verified by their signature and then kept.",
		func(s verify.Stats) float64 { return float64(s.TokensStored) })
	counter("token_cache_evicted_total", "Good tokens given up for want of room.",
		func(s verify.Stats) float64 { return float64(s.TokensEvicted) })
	registerRevocationMetrics(reg, v)
}
