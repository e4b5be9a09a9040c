package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/keys"
	"github.com/urbandata/urbandata/migrations"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/resourceserver"
)

type upCmd struct {
	AuthListen     string     `default:"127.0.0.1:8000" placeholder:"ADDRESS" env:"URBANDATA_AUTH_LISTEN" help:"Where authn listens. (${env}, ${default})"`
	APIListen      string     `name:"api-listen" default:"127.0.0.1:8001" placeholder:"ADDRESS" env:"URBANDATA_API_LISTEN" help:"Where inmuebles listens. (${env}, ${default})"`
	DataDir        string     `default:"${datadir}" placeholder:"PATH" env:"URBANDATA_DATA_DIR" help:"Folder of the databases and the sealing key, made if missing. (${env}, ${default})"`
	Issuer         string     `placeholder:"URL" env:"URBANDATA_AUTH_ISSUER" help:"The iss of tokens; from --auth-listen if not set. (${env})"`
	MetricsListen  string     `default:"127.0.0.1:9000" placeholder:"ADDRESS" env:"URBANDATA_METRICS_LISTEN" help:"Where to serve /metrics and /debug/pprof; off for nowhere. (${env}, ${default})"`
	Drain          drainFlags `embed:"" prefix:"drain-"`
	Demo           bool       `env:"URBANDATA_DEMO" help:"Store 500 made-up inmuebles to try things out, unless they are there. (${env})"`
	authnFlags     `embed:""`
	inmueblesFlags `embed:""`
}

// Help is shown by --help.
func (*upCmd) Help() string {
	return `
Everything is kept in the data folder: two SQLite databases and the key that seals the signing keys. Copy the folder while the process is stopped and you have a backup. inmuebles fetches authn's keys over HTTP as it would from another machine.`
}

// Run serves both until SIGTERM.
func (c *upCmd) Run(p *program, l *logging) error {
	log := l.logger(p)
	if err := dataDir(c.DataDir); err != nil {
		return err
	}
	auth, err := listen(p, "--auth-listen (URBANDATA_AUTH_LISTEN)", c.AuthListen)
	if err != nil {
		return err
	}
	api, err := listen(p, "--api-listen (URBANDATA_API_LISTEN)", c.APIListen)
	if err != nil {
		return err
	}
	authURL, apiURL := localURL(auth), localURL(api)
	if c.Issuer == "" {
		c.Issuer = authURL
	}
	sealer, err := c.sealer(p)
	if err != nil {
		return err
	}
	g := newGroup(log)
	if err := g.listenDebug(p, c.MetricsListen, "127.0.0.1:9000"); err != nil {
		return err
	}
	err = g.addAuthn(p, &c.authnFlags, c.Issuer, authFile(c.DataDir), sealer, auth, c.Drain, console{p.stdout})
	if err == nil && c.Demo {
		err = seedDemo(p.ctx, apiFile(c.DataDir), &c.catalogueFlag)
	}
	if err == nil {
		err = g.addInmuebles(p, verify.Options{
			Issuer: c.Issuer, Audience: authserver.InmueblesAudience, JWKSURL: authURL + jwksPath, Logger: log,
			Name: verifierName("inmuebles"), TokenCacheBytes: verify.DefaultTokenCacheBytes,
		}, &c.inmueblesFlags, apiFile(c.DataDir), api, c.Drain, c.CORSOrigin)
	}
	if err != nil {
		return errors.Join(err, g.close())
	}
	c.banner(p, authURL, apiURL, g.debug)
	return g.run(p.ctx)
}

// demoSize is how many inmuebles --demo makes up.
const demoSize = 500

func seedDemo(ctx context.Context, url string, f *catalogueFlag) error {
	catalogues, err := f.read()
	if err != nil {
		return err
	}
	store, closer, err := openInmuebles(ctx, url)
	if err != nil {
		return err
	}
	_, err = seed(ctx, store, catalogues.Fit(resourceserver.Samples(1, demoSize, "")))
	return errors.Join(err, closer())
}

// localURL is how a listener is reached from this machine.
func localURL(l net.Listener) string {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil { // a TCP listener has both
		panic(err)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// sealer reads the data folder's sealing key. A new folder gets one; a folder
// that has signing keys but lost its sealing key does not, because a new one
// could never open them.
func (c *upCmd) sealer(p *program) (keys.Sealer, error) {
	path := filepath.Join(c.DataDir, "sealing.key")
	setting := "--data-dir (URBANDATA_DATA_DIR)"
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if has, err := hasSigningKeys(p.ctx, authFile(c.DataDir)); err != nil {
			return nil, err
		} else if has {
			return nil, wrongSetting(setting, "%s is missing, and the signing keys in authn.db can't be opened without it; put it back from a backup, or start with an empty folder", path)
		}
		raw = []byte(keys.GenerateSealingKey().Encode() + "\n")
		err = writeNew(path, raw)
		if errors.Is(err, os.ErrExist) { // another process was faster
			raw, err = os.ReadFile(path)
		}
	}
	if err != nil {
		return nil, wrongSetting(setting, "%s can't be read or written (%s); name a folder that this user owns", path, reason(err))
	}
	return parseSealer(setting+": "+path, raw)
}

// hasSigningKeys reports whether a database holds a ring. It makes the
// database if there is none.
func hasSigningKeys(ctx context.Context, url string) (bool, error) {
	db, err := openAuthn(ctx, authSetting, url)
	if err != nil {
		return false, err
	}
	defer func() { _ = db.Close() }() // nothing was written but the schema
	if _, err := migrations.Up(ctx, db.Write.DB, authnSet(db)); err != nil {
		return false, err
	}
	ring, err := keys.NewSQLStore(db.Write).Load(ctx)
	if err != nil {
		return false, err
	}
	return len(ring.Keys) > 0, nil
}

// writeNew writes a file that must not exist yet, for its owner alone, and
// makes sure that it is on the disk: what it seals is lost without it.
func writeNew(path string, content []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), ".sealing-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temporary.Name()) }()
	_, err = temporary.Write(content)
	if err == nil {
		err = temporary.Sync()
	}
	if err = errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	return os.Link(temporary.Name(), path) // fails if it exists, and is whole if it doesn't
}

// banner says where everything is, in lines to paste from.
func (c *upCmd) banner(p *program, authURL, apiURL string, debug net.Listener) {
	metrics := "off"
	if debug != nil {
		metrics = "http://" + debug.Addr().String() + "/metrics"
	}
	mail := "by " + c.SMTPServer
	if c.SMTPServer == "" {
		mail = "printed here, links too: no mail server is set (--smtp-server)"
	}
	post := `curl -sS -H 'Content-Type: application/json'`
	example, err := json.Marshal(exampleInmueble)
	if err != nil { // plain values
		panic(err)
	}
	fmt.Fprintf(p.stdout, `authn      %[1]s  docs %[1]s/docs  keys %[1]s%[3]s
inmuebles  %[2]s  docs %[2]s/docs  metrics %[4]s
data       %[5]s  (Ctrl-C stops; the data stays)
mail       %[8]s
# register, log in, create, list:
%[6]s %[1]s/authn/register -d '{"email":"ana@example.es","password":"una frase larga y mia","first_name":"Ana","last_name":"Ruiz","company":"Casas"}'
TOKEN=$(%[6]s %[1]s/authn/token -d '{"email":"ana@example.es","password":"una frase larga y mia"}' | sed 's/.*"access":"\([^"]*\)".*/\1/')
%[6]s -H "Authorization: Bearer $TOKEN" %[2]s/inmuebles -d '%[7]s'
curl -sS -H "Authorization: Bearer $TOKEN" %[2]s/inmuebles
`, authURL, apiURL, jwksPath, metrics, absolute(c.DataDir), post, strings.ReplaceAll(string(example), "'", `'\''`), mail)
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// exampleInmueble is the property in the banner's curl.
var exampleInmueble = struct {
	OtherID      string  `json:"other_id"`
	BuildStatus  int     `json:"build_status"`
	IsActive     bool    `json:"is_active"`
	StartMonth   int     `json:"start_month"`
	DateIn       string  `json:"date_in"`
	PropertyType int     `json:"property_type"`
	EndWeek      int     `json:"end_week"`
	TypologyType int     `json:"typology_type"`
	XCoord       float64 `json:"x_coord"`
	YCoord       float64 `json:"y_coord"`
	ListingType  int     `json:"listing_type"`
	Date         string  `json:"date"`
	Title        string  `json:"title"`
}{"A1", 1, true, 3, "2026-01-15", 1, 12, 2, -3.7038, 40.4168, 1, "2026-01-20", "Piso en Sol"}
