package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
)

// authnFlags are the settings of authn that `up` has too.
type authnFlags struct {
	CORSOrigin      []string          `name:"cors-origin" placeholder:"ORIGIN" env:"URBANDATA_CORS_ORIGINS" help:"Let pages of this origin call the API from a browser, such as https://map.example. Repeatable; several with , between. (${env})"`
	SigningAlg      string            `placeholder:"ALG" env:"URBANDATA_AUTH_SIGNING_ALG" help:"Sign for every audience with this algorithm, RS256 or EdDSA. Otherwise inmuebles gets EdDSA and others RS256. (${env})"`
	Audience        map[string]string `placeholder:"NAME=ALG[/TYP]" env:"URBANDATA_AUTH_AUDIENCES" help:"Register an audience with its algorithm and, where its verifier refuses at+jwt, typ JWT: spring=RS256/JWT. Repeatable; several with ; between. (${env})"`
	TokenLife       time.Duration     `default:"5m" env:"URBANDATA_AUTH_TOKEN_LIFE" help:"Life of an access token. (${env})"`
	TokenBackdate   time.Duration     `default:"5s" env:"URBANDATA_AUTH_TOKEN_BACKDATE" help:"By how much iat lies in the past, for verifiers whose clock is behind. (${env})"`
	RefreshGrace    time.Duration     `default:"10s" env:"URBANDATA_AUTH_REFRESH_GRACE" help:"How long a refresh token that was used already is answered with the current one. (${env})"`
	RefreshIdle     time.Duration     `default:"168h" env:"URBANDATA_AUTH_REFRESH_IDLE" help:"A session ends when it isn't refreshed for this long. (${env})"`
	SessionLifetime time.Duration     `default:"2160h" env:"URBANDATA_AUTH_SESSION_LIFETIME" help:"A session ends at this age. (${env})"`
	accountFlags    `embed:""`
}

type authserverCmd struct {
	Listen         string     `default:"127.0.0.1:8000" placeholder:"ADDRESS" env:"URBANDATA_AUTH_LISTEN" help:"Where to listen. (${env}, ${default})"`
	Issuer         string     `placeholder:"URL" env:"URBANDATA_AUTH_ISSUER" help:"The iss of tokens: the URL at which verifiers find this server, without a slash at the end. From --listen if not set. (${env})"`
	SealingKeyFile string     `placeholder:"PATH" env:"URBANDATA_SEALING_KEY_FILE" help:"File with the key that seals signing keys at rest: 32 random bytes in base64; a second line for the one before. Or set URBANDATA_SEALING_KEY. (${env})"`
	MetricsListen  string     `default:"127.0.0.1:9000" placeholder:"ADDRESS" env:"URBANDATA_METRICS_LISTEN" help:"Where to serve /metrics and /debug/pprof; off for nowhere. (${env}, ${default})"`
	Drain          drainFlags `embed:"" prefix:"drain-"`
	authnDatabase  `embed:""`
	authnFlags     `embed:""`
}

// Help is shown by --help.
func (*authserverCmd) Help() string {
	return `
Several replicas may run on one PostgreSQL: they share users, sessions and keys, and may start at the same moment. Each migrates the database first, under a lock.

  URBANDATA_AUTH_DATABASE_FILE=/run/secrets/authn-database \
  urbandata authserver --listen 0.0.0.0:8000 --issuer https://id.example --sealing-key-file /run/secrets/sealing-key`
}

// Run serves until SIGTERM.
func (c *authserverCmd) Run(p *program, l *logging) error {
	log := l.logger(p)
	url, err := c.url(p)
	if err != nil {
		return err
	}
	sealer, err := p.sealer(c.SealingKeyFile)
	if err != nil {
		return err
	}
	listener, err := listen(p, "--listen (URBANDATA_AUTH_LISTEN)", c.Listen)
	if err != nil {
		return err
	}
	if c.Issuer == "" {
		c.Issuer = "http://" + listener.Addr().String()
	}
	g := newGroup(log)
	if err := g.listenDebug(p, c.MetricsListen, "127.0.0.1:9000"); err != nil {
		return err
	}
	if err := g.addAuthn(p, &c.authnFlags, c.Issuer, url, sealer, listener, c.Drain); err != nil {
		return errors.Join(err, g.close())
	}
	log.Info("authn is up", slog.String("address", listener.Addr().String()), slog.String("issuer", c.Issuer))
	return g.run(p.ctx)
}

// addAuthn opens authn's database, brings it up to date, makes sure of the
// keys, and adds the server to the group.
func (g *group) addAuthn(p *program, f *authnFlags, issuer, url string, sealer keys.Sealer, l net.Listener, drain drainFlags) error {
	if err := authserver.CheckIssuer(issuer); err != nil {
		return wrongSetting("--issuer (URBANDATA_AUTH_ISSUER)", "%s", strings.TrimPrefix(err.Error(), "the issuer "))
	}
	audiences, alg, err := f.audiences()
	if err != nil {
		return err
	}
	accounts, err := f.accounts()
	if err != nil {
		return err
	}
	policy := keys.DefaultPolicy()
	policy.TokenLife = f.TokenLife
	if short := policy.MinRetention() - policy.Retention; short > 0 {
		policy.Retention += short // a key stays published as long as its tokens live
	}
	if f.TokenLife < time.Second || f.TokenLife > 24*time.Hour {
		return wrongSetting("--token-life (URBANDATA_AUTH_TOKEN_LIFE)", "it must lie between 1s and 24h; nothing calls an access token back")
	}

	db, err := openAuthn(p.ctx, authSetting, url)
	if err != nil {
		return err
	}
	g.closers = append(g.closers, db.Close)
	if _, err := migrations.Up(p.ctx, db.Write.DB, authnSet(db)); err != nil {
		return err
	}
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "unknown"
	}
	var keeper *keys.Keeper
	keeper, err = keys.NewKeeper(keys.NewSQLStore(db.Write), sealer, policy, keys.Options{
		Name: fmt.Sprintf("%s/%d", hostname, os.Getpid()), Logger: g.log,
		Probe: probeJWKS(issuer, func() *keys.Keeper { return keeper }),
	})
	if err != nil {
		return err
	}
	for _, warning := range policy.Warnings() {
		g.log.Warn(warning)
	}
	if err := keeper.Tick(p.ctx); errors.Is(err, keys.ErrSealed) {
		return wrongSetting("--sealing-key-file (URBANDATA_SEALING_KEY_FILE)",
			"it is not the key that the signing keys were sealed with (%s); put back the one they were sealed with", err)
	} else if err != nil {
		return err
	}
	g.background = append(g.background, func(ctx context.Context) error { keeper.Run(ctx); return nil })
	if db.Kind == database.Postgres {
		g.background = append(g.background, func(ctx context.Context) error {
			if err := keys.Listen(ctx, database.PostgresDSN(url), g.log, keeper.Wake); err != nil {
				g.log.Warn("new signing rings are seen with each tick only", "err", err)
			}
			return nil
		})
	}
	registerKeyMetrics(g.metrics, keeper)

	store, err := authserver.NewStore(p.ctx, db.Write, db.Read)
	if err != nil {
		return err
	}
	g.closers = append(g.closers, store.Close)
	server, err := authserver.New(authserver.Options{
		Issuer: issuer, Keys: keeper, Log: g.log, Metrics: g.metrics, Version: version(),
		Accounts:  authserver.NewAccounts(store, accounts),
		Audiences: audiences, SigningAlg: alg, Backdate: f.TokenBackdate, Origins: f.CORSOrigin,
	})
	if errors.Is(err, authserver.ErrOptions) {
		return wrongSetting("authserver", "%s", err)
	}
	if err != nil {
		return err
	}
	g.background = append(g.background, func(ctx context.Context) error { server.Run(ctx); return nil })
	g.serve("authn", l, server, server.Health, drain)
	return nil
}

// openAuthn opens authn's database. On SQLite every commit reaches the disk: a
// rotation that was acknowledged and then lost would look like reuse.
func openAuthn(ctx context.Context, setting databaseSetting, url string) (*database.SQL, error) {
	db, err := database.OpenSQL(ctx, url, database.Full)
	return db, setting.wrong(err)
}

func authnSet(db *database.SQL) migrations.Set {
	if db.Kind == database.Postgres {
		return migrations.AuthnPostgres
	}
	return migrations.AuthnSQLite
}

// audiences reads --audience and --signing-alg.
func (f *authnFlags) audiences() (map[string]authserver.Audience, jose.SignatureAlgorithm, error) {
	audiences := map[string]authserver.Audience{}
	for name, value := range f.Audience {
		alg, typ, ok := strings.Cut(value, "/")
		if !ok {
			typ = token.TypeAccess
		}
		if name == "" || !knownAlg(alg) || typ != token.TypeAccess && typ != token.TypeJWT {
			return nil, "", wrongSetting("--audience (URBANDATA_AUTH_AUDIENCES)",
				"it must be NAME=ALG or NAME=ALG/TYP, with ALG RS256 or EdDSA and TYP at+jwt or JWT, such as spring=RS256/JWT")
		}
		audiences[name] = authserver.Audience{Alg: jose.SignatureAlgorithm(alg), Type: typ}
	}
	if f.SigningAlg != "" && !knownAlg(f.SigningAlg) {
		return nil, "", wrongSetting("--signing-alg (URBANDATA_AUTH_SIGNING_ALG)", "it must be RS256 or EdDSA")
	}
	return audiences, jose.SignatureAlgorithm(f.SigningAlg), nil
}

func knownAlg(alg string) bool {
	for _, a := range keys.DefaultPolicy().Algorithms {
		if string(a) == alg {
			return true
		}
	}
	return false
}

// registerKeyMetrics shows what an operator wants to be woken for.
func registerKeyMetrics(reg prometheus.Registerer, keeper *keys.Keeper) {
	counter := func(name, help string, value func(keys.Stats) float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "urbandata_keys_" + name, Help: help},
			func() float64 { return value(keeper.Stats()) }))
	}
	gauge := func(name, help string, value func(keys.Stats) float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "urbandata_keys_" + name, Help: help},
			func() float64 { return value(keeper.Stats()) }))
	}
	counter("ticks_total", "Looks at the stored ring.", func(s keys.Stats) float64 { return float64(s.Ticks) })
	counter("tick_failures_total", "Looks that failed.", func(s keys.Stats) float64 { return float64(s.Failures) })
	counter("conflicts_total", "Changes that another replica made first.", func(s keys.Stats) float64 { return float64(s.Conflicts) })
	gauge("ring_version", "Version of the ring in memory.", func(s keys.Stats) float64 { return float64(s.Version) })
	gauge("ring_read_timestamp_seconds", "When the ring in memory was last known to be the stored one.",
		func(s keys.Stats) float64 { return float64(s.ReadAt.UnixMilli()) / 1000 })
	for _, alg := range keeper.Policy().Algorithms {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "urbandata_keys_next_transition_timestamp_seconds", Help: "When the signing key of an algorithm is due to change.",
			ConstLabels: prometheus.Labels{"alg": string(alg)},
		}, func() float64 {
			if k := keeper.Ring().Signing(alg); k != nil {
				if _, at, ok := k.Next(); ok {
					return float64(at.UnixMilli()) / 1000
				}
			}
			return 0
		}))
	}
}
