//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"github.com/urbandata/urbandata/test/engines"
	"github.com/urbandata/urbandata/test/process"
)

// connections is how many there are to a service, as of a proxy's: requests
// that come faster wait for one, and their latency counts that.
const connections = 256

// documents is how many properties there are when a run begins.
const documents = 20_000

// service is a running program of ours.
type service struct {
	name     string
	url      string
	metrics  string
	process  *process.Process
	database *database // whose work its requests are
}

// database is a server's database, and what the server's processes are.
type database struct {
	name    string // of the product
	url     string
	cpu     func() time.Duration                   // nil when the server is on another machine
	written func(context.Context) (float64, error) // bytes of its log so far
}

// system is all that runs: both services and the floor on real databases.
type system struct {
	starter *process.Starter
	scratch string
	binary  string // urbandata

	floorBinary string
	machine     machine

	authn, inmuebles, floor *service

	postgres *sqlx.DB // authn's
	mongo    *mongo.Database
	ends     []func() error

	client                  *http.Client
	clientID, clientSecret  string
	authnArgs, inmueblesArg []string // beside those that all runs have
	env                     map[string]string
}

// start builds the programs and starts them. What it started ends with
// [system.end], also after a failure.
func (s *system) start(ctx context.Context) error {
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections, DisableCompression: true,
	}}
	s.binary = filepath.Join(s.scratch, "urbandata")
	s.floorBinary = filepath.Join(s.scratch, "floor")
	for to, pkg := range map[string]string{s.binary: "github.com/urbandata/urbandata", s.floorBinary: "github.com/urbandata/urbandata/test/load/floor"} {
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, pkg) //nolint:gosec // names of ours
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	postgres, mongodb, err := s.openDatabases(ctx)
	if err != nil {
		return err
	}
	if err := s.startServices(ctx, postgres, mongodb); err != nil {
		return err
	}
	return s.startFloor(ctx)
}

func (s *system) openDatabases(ctx context.Context) (postgres, mongodb *database, err error) {
	s.machine = machine{
		Processor: field("/proc/cpuinfo", "model name"), Cores: runtime.GOMAXPROCS(0), Go: runtime.Version(),
		System: runtime.GOOS + " " + runtime.GOARCH,
	}
	if kib, err := strconv.ParseFloat(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 64); err == nil {
		s.machine.MemoryGB = kib / (1 << 20)
	}

	postgres, mongodb = &database{name: "PostgreSQL"}, &database{name: "MongoDB"}
	var drop func() error
	if postgres.url, drop, err = engines.NewPostgres(); err != nil {
		return nil, nil, err
	}
	s.ends = append(s.ends, drop)
	if s.postgres, err = sqlx.ConnectContext(ctx, "postgres", postgres.url); err != nil {
		return nil, nil, errors.New("PostgreSQL can't be reached") // the driver's text may have the password
	}
	s.ends = append(s.ends, s.postgres.Close)
	var backend int
	if err := s.postgres.QueryRowxContext(ctx, `SELECT pg_backend_pid(), current_setting('server_version')`).Scan(&backend, &s.machine.PostgreSQL); err != nil {
		return nil, nil, fmt.Errorf("ask PostgreSQL who it is: %w", err)
	}
	postgres.written = func(ctx context.Context) (bytes float64, err error) {
		err = s.postgres.GetContext(ctx, &bytes, `SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn`)
		return bytes, err
	}
	if strings.HasPrefix(command(backend), "postgres") {
		postmaster := readStat(backend).parent
		postgres.cpu = func() time.Duration { return family(postmaster) }
	}

	if mongodb.url, drop, err = engines.NewMongo(); err != nil {
		return nil, nil, err
	}
	s.ends = append(s.ends, drop)
	client, err := mongo.Connect(ctx, options.Client().ApplyURI(mongodb.url))
	if err != nil {
		return nil, nil, errors.New("MongoDB can't be reached")
	}
	s.ends = append(s.ends, func() error { return client.Disconnect(context.Background()) })
	u, err := url.Parse(mongodb.url)
	if err != nil {
		return nil, nil, errors.New("MongoDB's URL can't be read")
	}
	s.mongo = client.Database(strings.Trim(u.Path, "/"))
	status, err := s.mongoStatus(ctx)
	if err != nil {
		return nil, nil, err
	}
	s.machine.MongoDB = status.Version
	mongodb.written = func(ctx context.Context) (float64, error) {
		now, err := s.mongoStatus(ctx)
		return now.WiredTiger.Log.Written, err
	}
	if strings.HasPrefix(command(status.PID), "mongod") {
		mongodb.cpu = func() time.Duration { return readStat(status.PID).cpu }
	}
	return postgres, mongodb, nil
}

// mongoStatus is what MongoDB says of itself.
type mongoStatus struct {
	PID         int    `bson:"pid"`
	Version     string `bson:"version"`
	Connections struct {
		Current float64 `bson:"current"`
	} `bson:"connections"`
	WiredTiger struct {
		Log struct {
			Written float64 `bson:"log bytes written"`
		} `bson:"log"`
	} `bson:"wiredTiger"`
}

func (s *system) mongoStatus(ctx context.Context) (status mongoStatus, err error) {
	if err := s.mongo.RunCommand(ctx, bson.D{{Key: "serverStatus", Value: 1}}).Decode(&status); err != nil {
		return status, fmt.Errorf("ask MongoDB how it is: %w", err)
	}
	return status, nil
}

func (s *system) startServices(ctx context.Context, postgres, mongodb *database) error {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	s.env = map[string]string{
		"PATH": os.Getenv("PATH"), "HOME": s.scratch, "URBANDATA_DATA_DIR": s.scratch,
		"URBANDATA_SEALING_KEY":   base64.StdEncoding.EncodeToString(key[:]),
		"URBANDATA_AUTH_DATABASE": postgres.url, "URBANDATA_API_DATABASE": mongodb.url,
	}
	// The documents first, so that the service finds them when it starts.
	if _, err := s.run(ctx, "seed", strconv.Itoa(documents)); err != nil {
		return err
	}
	var err error
	if s.authn, err = s.launch(ctx, "authn", append([]string{
		"authserver", "--listen", "127.0.0.1:0", "--issuer", issuer, "--limits", "off", "--drain-delay", "0s",
	}, s.authnArgs...)); err != nil {
		return err
	}
	if s.inmuebles, err = s.launch(ctx, "inmuebles", append([]string{
		"resourceserver", "--listen", "127.0.0.1:0", "--issuer", issuer, "--jwks-url", s.authn.url + "/.well-known/jwks.json", "--drain-delay", "0s",
	}, s.inmueblesArg...)); err != nil {
		return err
	}
	s.authn.database, s.inmuebles.database = postgres, mongodb
	for _, service := range []*service{s.authn, s.inmuebles} {
		if err := s.ready(ctx, service); err != nil {
			return err
		}
	}
	made, err := s.run(ctx, "clients", "create", "load", "--scope", "inmuebles:read", "--scope", "inmuebles:write", "--json")
	if err != nil {
		return err
	}
	var client struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	if err := json.Unmarshal(made, &client); err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	s.clientID, s.clientSecret = client.ID, client.Secret
	return s.indexed(ctx)
}

// startFloor starts the floor on databases of its own, with the same documents
// and indexes.
func (s *system) startFloor(ctx context.Context) error {
	mongoURL, drop, err := engines.NewMongo()
	if err != nil {
		return err
	}
	s.ends = append(s.ends, drop)
	u, err := url.Parse(mongoURL)
	if err != nil {
		return errors.New("MongoDB's URL can't be read")
	}
	name := strings.Trim(u.Path, "/")
	from, to := s.mongo.Collection("inmuebles"), s.mongo.Client().Database(name).Collection("inmuebles")
	if err := copyCollection(ctx, from, to); err != nil {
		return fmt.Errorf("copy the documents for the floor: %w", err)
	}
	s.env["FLOOR_MONGODB"], s.env["FLOOR_MONGODB_NAME"] = mongoURL, name
	s.floor, err = s.launchFloor(ctx, "floor", s.authn)
	return err
}

// launchFloor starts a floor that takes the tokens of an authn, with a new
// PostgreSQL database and the documents of [system.startFloor].
func (s *system) launchFloor(ctx context.Context, name string, authn *service) (*service, error) {
	databaseURL, drop, err := engines.NewPostgres()
	if err != nil {
		return nil, err
	}
	s.ends = append(s.ends, drop)
	s.env["FLOOR_POSTGRES"] = databaseURL
	return s.spawn(ctx, name, s.floorBinary, []string{"-jwks", authn.url + "/.well-known/jwks.json", "-metrics-listen"})
}

func copyCollection(ctx context.Context, from, to *mongo.Collection) error {
	cursor, err := from.Aggregate(ctx, mongo.Pipeline{{{Key: "$out", Value: bson.D{{Key: "db", Value: to.Database().Name()}, {Key: "coll", Value: to.Name()}}}}})
	if err != nil {
		return err
	}
	if err := cursor.Close(ctx); err != nil {
		return err
	}
	if cursor, err = from.Indexes().List(ctx); err != nil {
		return err
	}
	var indexes []bson.D // whose keys have an order
	if err := cursor.All(ctx, &indexes); err != nil {
		return err
	}
	indexes = slices.DeleteFunc(indexes, func(index bson.D) bool { return slices.Contains(index, bson.E{Key: "name", Value: "_id_"}) })
	return to.Database().RunCommand(ctx, bson.D{{Key: "createIndexes", Value: to.Name()}, {Key: "indexes", Value: indexes}}).Err()
}

// issuer is who the tokens are from, whatever the ports are.
const issuer = "https://id.example"

// run runs a command of urbandata to its end.
func (s *system) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, s.binary, args...) //nolint:gosec // built above
	cmd.Env = s.environ()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(s.binary), args[0], err, stderr.Bytes())
	}
	return out, nil
}

func (s *system) environ() (env []string) {
	for name, value := range s.env {
		env = append(env, name+"="+value)
	}
	return env
}

func (s *system) launch(ctx context.Context, name string, args []string) (*service, error) {
	return s.spawn(ctx, name, s.binary, append(args, "--metrics-listen"))
}

// spawn starts a program whose last argument is where it serves metrics, and
// returns when it says that it is up.
func (s *system) spawn(ctx context.Context, name, binary string, args []string) (*service, error) {
	metrics, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, append(args, metrics)...) //nolint:gosec,noctx // built above; ended by the starter
	cmd.Env = s.environ()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	started, err := s.starter.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	log, err := os.Create(filepath.Join(s.scratch, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("make a log: %w", err)
	}
	addresses := make(chan string, 1)
	go func() {
		defer func() { _ = log.Close() }()
		lines := bufio.NewReader(stderr)
		for {
			line, err := lines.ReadBytes('\n')
			_, _ = log.Write(line) // for a person, should something fail
			if err != nil {
				return
			}
			var entry struct{ Msg, Address string }
			if json.Unmarshal(line, &entry) == nil && strings.HasSuffix(entry.Msg, " is up") {
				addresses <- entry.Address
				break
			}
		}
		_, _ = io.Copy(log, lines) // the log is written, and nobody reads it
	}()
	select {
	case address := <-addresses:
		return &service{name: name, url: "http://" + address, metrics: "http://" + metrics, process: started}, nil
	case <-started.Done():
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%s ended instead of listening:\n%s", name, text[max(0, len(text)-2000):])
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// ready waits until a service says that it is.
func (s *system) ready(ctx context.Context, service *service) error {
	return s.until(ctx, service.name+" is ready", func() (bool, error) {
		status, _, err := s.get(ctx, service.url+"/readyz")
		return status == http.StatusOK, err
	})
}

// indexed waits until the index of words has caught up.
func (s *system) indexed(ctx context.Context) error {
	return s.until(ctx, "the words are in the index", func() (bool, error) {
		err := s.mongo.Collection("inmuebles").FindOne(ctx, bson.D{{Key: "_words", Value: nil}}).Err()
		if errors.Is(err, mongo.ErrNoDocuments) {
			return true, nil
		}
		return false, err
	})
}

// until looks ten times a second, for two minutes.
func (s *system) until(ctx context.Context, what string, is func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		done, err := is()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still not: %s (%w)", what, errors.Join(err, ctx.Err()))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *system) get(ctx context.Context, url string) (status int, body []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	w, err := s.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = w.Body.Close() }()
	body, err = io.ReadAll(w.Body)
	return w.StatusCode, body, err
}

// gauge reads numbers from a service's metrics, by name; labels are part of it.
func (s *system) gauges(ctx context.Context, of *service, names ...string) (map[string]float64, error) {
	_, text, err := s.get(ctx, of.metrics+"/metrics")
	if err != nil {
		return nil, fmt.Errorf("%s's metrics: %w", of.name, err)
	}
	values := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if slices.Contains(names, name) {
			if values[name], err = strconv.ParseFloat(value, 64); err != nil {
				return nil, fmt.Errorf("%s's metric %s: %w", of.name, name, err)
			}
		}
	}
	for _, name := range names {
		if _, ok := values[name]; !ok {
			return nil, fmt.Errorf("%s has no metric %s", of.name, name)
		}
	}
	return values, nil
}

// end ends all that was started, the services before their databases go.
func (s *system) end() error {
	s.starter.EndAll()
	var err error
	for _, f := range slices.Backward(s.ends) {
		err = errors.Join(err, f())
	}
	return err
}
