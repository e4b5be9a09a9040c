// Package cli is the command line: one file for each sub-command. It alone
// reads flags, the environment and secrets, opens databases, and puts the
// rooms of the house together; main calls [Main] and nothing else.
//
// Every setting is a flag and an environment variable. A secret is never a
// flag's value: it comes from the environment, or from a file that a variable
// ending in _FILE names (settings.go).
//
// Exit codes: 0 done · 1 failed · 2 a wrong setting or argument, said in one
// sentence on standard error. Commands that judge have more, in their --help.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/urbandata/urbandata/authserver"
	"github.com/urbandata/urbandata/keys"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailed  = 1
	exitSetting = 2
)

// program is what every command works with.
type program struct {
	ctx    context.Context
	args   []string // as given, to tell a flag from a variable
	getenv func(string) string
	now    func() time.Time // authn's clock; time.Now if nil
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// command is a command with what kong is told of it. Its flags, variables and
// help are in the tags of its struct.
type command struct {
	name, help string
	do         any
	tags       string
}

// commands is the whole command line.
func commands() []command {
	return []command{
		{"up", "Run both services in one process on embedded databases (what a bare call does).", &upCmd{}, `default:"withargs"`},
		{"authserver", "Run authn: users, sessions, tokens and keys.", &authserverCmd{}, ""},
		{"resourceserver", "Run inmuebles: the properties API.", &resourceserverCmd{}, ""},
		{"verify-proxy", "Verify tokens for a reverse proxy: nginx, Traefik, Caddy.", &verifyProxyCmd{}, ""},
		{"migrate", "Bring the databases up to date and exit.", &migrateCmd{}, ""},
		{"import", "Load inmuebles from a CSV, NDJSON or JSON file.", &importCmd{}, ""},
		{"export", "Write all inmuebles as CSV, NDJSON, JSON or GeoJSON.", &exportCmd{}, ""},
		{"seed", "Store made-up inmuebles, to try things out.", &seedCmd{}, ""},
		{"inmuebles", "Look after the database of inmuebles.", &inmueblesCmd{}, ""},
		{"users", "Create, list and disable users; set a password.", &usersCmd{}, ""},
		{"clients", "Register programs that get tokens in their own name.", &clientsCmd{}, ""},
		{"audiences", "Register whom tokens are for.", &audiencesCmd{}, ""},
		{"audit", "Export and verify who did what to users, sessions, clients and keys.", &auditCmd{}, ""},
		{"keys", "Look at the signing keys, rotate, revoke, import and export them.", &keysCmd{}, ""},
		{"token", "Look into an access token.", &tokenCmd{}, ""},
		{"version", "Print the version.", &versionCmd{}, ""},
	}
}

// meant are the commands that arguments can mean: the one that they begin
// with, or all of them. Each costs time at every start, and memory: kong
// builds a model of it, down to the help of its flags.
func meant(args []string) []command {
	all := commands()
	if len(args) == 0 {
		return all[:1]
	}
	if i := slices.IndexFunc(all, func(c command) bool { return c.name == args[0] }); i >= 0 {
		return all[i : i+1]
	}
	return all
}

const about = `urbandata: an auth server that signs tokens with rotating keys, and a properties API that verifies them offline.

A bare call runs both on embedded databases in ./urbandata-data. Each setting is also an environment variable, named beside it. Secrets are taken from the environment, or from a file that the variable with _FILE names, never from an argument.`

// Main runs the program and returns its exit code. SIGINT and SIGTERM end it
// in good order; a second one ends it at once.
func Main() int { return MainAt(time.Now) }

// MainAt is Main with another clock for authn. The drill runs a replica whose
// clock is wrong with it; there is no setting for that.
func MainAt(now func() time.Time) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from here on the next signal kills
	return run(&program{
		ctx: ctx, args: os.Args[1:], getenv: os.Getenv, now: now,
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	})
}

func run(p *program) int {
	var global struct {
		Logging logging `embed:"" prefix:"log-"`
	}
	exited := -1
	options := []kong.Option{
		kong.Name("urbandata"),
		kong.Description(about),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.Vars{"datadir": defaultDataDir, "accountslog": authserver.AuditLog, "keyslog": keys.AuditLog},
		kong.Bind(p),
		kong.Resolvers(environment(p.getenv)),
	}
	for _, c := range meant(p.args) {
		options = append(options, kong.DynamicCommand(c.name, c.help, "", c.do, c.tags))
	}
	parser, err := kong.New(&global, options...)
	if err != nil { // a mistake in the tags above
		panic(err)
	}
	command, err := parser.Parse(p.args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "urbandata: %s\nRun \"urbandata --help\" for what there is.\n", withoutSecrets(err))
		return exitSetting
	}
	err = command.Run(p, &global.Logging)
	var wrong *settingError
	var verdict *verdictError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &verdict):
		return verdict.code
	case p.ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(p.stderr, "urbandata: interrupted before it was done; nothing is half done")
		return exitFailed
	case errors.As(err, &wrong):
		fmt.Fprintf(p.stderr, "urbandata: %s\n", wrong)
		return exitSetting
	default:
		fmt.Fprintf(p.stderr, "urbandata: %s\n", err)
		return exitFailed
	}
}

// environment lets kong find variables through getenv, so that tests need no
// real environment.
func environment(getenv func(string) string) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		for _, name := range flag.Tag.Envs {
			if v := getenv(name); v != "" {
				return v, nil
			}
		}
		return nil, nil
	})
}

// withoutSecrets keeps what kong says of a wrong argument, which it quotes,
// to what can't be a secret: a stray argument may be a password.
func withoutSecrets(err error) string {
	text := err.Error()
	if strings.HasPrefix(text, "unexpected argument ") {
		return "there is no such command, or an argument too many"
	}
	return text
}
