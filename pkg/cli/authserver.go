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

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/pkg/token"
)

// authnFlags are the settings of authn that `up` has too.
type authnFlags struct {
	CORSOrigin      []string          `name:"cors-origin" placeholder:"ORIGIN" env:"URBANDATA_CORS_ORIGINS" help:"Let pages of this origin call the API from a browser, such as https://map.example. Repeatable; several with , between. (${env})"`
	SigningAlg      string            `placeholder:"ALG" env:"URBANDATA_AUTH_SIGNING_ALG" help:"Sign for every audience with this algorithm, one of --keys-algorithms. Otherwise inmuebles gets EdDSA and others RS256. (${env})"`
	Audience        map[string]string `placeholder:"NAME=ALG[/TYP]" env:"URBANDATA_AUTH_AUDIENCES" help:"Register an audience with its algorithm and, where its verifier refuses at+jwt, typ JWT: spring=RS256/JWT. Repeatable; several with ; between. (${env})"`
	TokenLife       time.Duration     `default:"5m" env:"URBANDATA_AUTH_TOKEN_LIFE" help:"Life of an access token. (${env})"`
	TokenBackdate   time.Duration     `default:"5s" env:"URBANDATA_AUTH_TOKEN_BACKDATE" help:"By how much iat lies in the past, for verifiers whose clock is behind. (${env})"`
	RefreshGrace    time.Duration     `default:"10s" env:"URBANDATA_AUTH_REFRESH_GRACE" help:"How long a refresh token that was used already is answered with the current one. (${env})"`
	RefreshIdle     time.Duration     `default:"168h" env:"URBANDATA_AUTH_REFRESH_IDLE" help:"A session ends when it isn't refreshed for this long. (${env})"`
	SessionLifetime time.Duration     `default:"2160h" env:"URBANDATA_AUTH_SESSION_LIFETIME" help:"A session ends at this age. (${env})"`
	StepUpAge       time.Duration     `name:"step-up-age" default:"10m" env:"URBANDATA_AUTH_STEP_UP_AGE" help:"For how long a login counts as recent, where a route wants a recent one (RFC 9470). (${env})"`
	AdminFactor     bool              `name:"admin-second-factor" env:"URBANDATA_AUTH_ADMIN_SECOND_FACTOR" help:"Whatever administrators do over HTTP needs a login with a second factor. (${env})"`
	accountFlags    `embed:""`
	Policy          policyFlags `embed:""`
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
	if err := g.addAuthn(p, &c.authnFlags, c.Issuer, url, sealer, listener, c.Drain, nil); err != nil {
		return errors.Join(err, g.close())
	}
	if c.SMTPServer == "" {
		log.Info("no mail server is set: no mail is sent, and nobody can reset a password or change an address")
	}
	log.Info("authn is up", slog.String("address", listener.Addr().String()), slog.String("issuer", c.Issuer))
	return g.run(p.ctx)
}

// addAuthn opens authn's database, brings it up to date, makes sure of the
// keys, and adds the server to the group. mailer is used if no mail server is
// set.
func (g *group) addAuthn(p *program, f *authnFlags, issuer, url string, sealer keys.Sealer, l net.Listener, drain drainFlags, mailer authserver.Mailer) error {
	if err := authserver.CheckIssuer(issuer); err != nil {
		return wrongSetting("--issuer (URBANDATA_AUTH_ISSUER)", "%s", strings.TrimPrefix(err.Error(), "the issuer "))
	}
	if f.TokenLife < time.Second || f.TokenLife > 24*time.Hour {
		return wrongSetting("--token-life (URBANDATA_AUTH_TOKEN_LIFE)", "it must lie between 1s and 24h; who doesn't follow the revocations takes an access token for as long")
	}
	if f.StepUpAge < 10*time.Second || f.StepUpAge > 24*time.Hour {
		return wrongSetting("--step-up-age (URBANDATA_AUTH_STEP_UP_AGE)", "it must lie between 10s and 24h, such as 10m")
	}
	policy, err := f.Policy.policy(f.TokenLife)
	if err != nil {
		return err
	}
	if f.TokenBackdate < policy.Skew/2 {
		return wrongSetting("--token-backdate (URBANDATA_AUTH_TOKEN_BACKDATE)",
			"it is %v, and a replica's clock may be ahead by half of --keys-skew, %v: verifiers would refuse its tokens as not valid yet; raise it to %v, or lower --keys-skew",
			f.TokenBackdate, policy.Skew/2, policy.Skew/2)
	}
	audiences, alg, err := f.audiences(policy)
	if err != nil {
		return err
	}
	accounts, err := f.accounts(p, issuer, mailer)
	if err != nil {
		return err
	}
	proxies, err := f.proxies()
	if err != nil {
		return err
	}
	if f.Limits == limitsOff {
		g.log.Warn("LIMITS ARE OFF: anybody may try as many passwords as the machine can check (--limits, URBANDATA_AUTH_LIMITS)")
	}
	accounts.Now, accounts.Sealer = p.now, sealer
	for _, warning := range policy.Warnings() {
		g.log.Warn(warning)
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
		Name: fmt.Sprintf("%s/%d", hostname, os.Getpid()), Logger: g.log, Now: p.now,
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
	g.metrics.MustRegister(&keyMetrics{keeper})

	store, err := authserver.NewStore(p.ctx, db.Write, db.Read)
	if err != nil {
		return err
	}
	g.closers = append(g.closers, store.Close)
	server, err := authserver.New(authserver.Options{
		Issuer: issuer, Keys: keeper, Log: g.log, Metrics: g.metrics, Version: version(), Now: p.now,
		Accounts:  authserver.NewAccounts(store, accounts),
		Audiences: audiences, SigningAlg: alg, Backdate: f.TokenBackdate, Origins: f.CORSOrigin, Proxies: proxies,
		StepUp: authserver.StepUp{MaxAge: f.StepUpAge, AdminFactor: f.AdminFactor},
	})
	if errors.Is(err, authserver.ErrOptions) {
		return wrongSetting("--audience, --signing-alg or --keys-algorithms", "%s", strings.TrimPrefix(err.Error(), authserver.ErrOptions.Error()+": "))
	}
	if err != nil {
		return err
	}
	g.background = append(g.background, func(ctx context.Context) error { server.Run(ctx); return nil })
	if db.Kind == database.Postgres {
		g.background = append(g.background, func(ctx context.Context) error {
			if err := keys.ListenOn(ctx, database.PostgresDSN(url), authserver.RevocationsChannel, g.log, server.Wake); err != nil {
				g.log.Warn("what ends at other replicas is looked for ten times a second only", "err", err)
			}
			return nil
		})
	}
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
func (f *authnFlags) audiences(policy keys.Policy) (map[string]authserver.Audience, jose.SignatureAlgorithm, error) {
	audiences := map[string]authserver.Audience{}
	for name, value := range f.Audience {
		alg, typ, ok := strings.Cut(value, "/")
		if !ok {
			typ = token.TypeAccess
		}
		if name == "" || !knows(policy, alg) || typ != token.TypeAccess && typ != token.TypeJWT {
			return nil, "", wrongSetting("--audience (URBANDATA_AUTH_AUDIENCES)",
				"it must be NAME=ALG or NAME=ALG/TYP, with ALG one of --keys-algorithms and TYP at+jwt or JWT, such as spring=RS256/JWT")
		}
		audiences[name] = authserver.Audience{Alg: jose.SignatureAlgorithm(alg), Type: typ}
	}
	if f.SigningAlg != "" && !knows(policy, f.SigningAlg) {
		return nil, "", wrongSetting("--signing-alg (URBANDATA_AUTH_SIGNING_ALG)", "it must be one of --keys-algorithms")
	}
	return audiences, jose.SignatureAlgorithm(f.SigningAlg), nil
}
