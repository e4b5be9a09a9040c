//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

const mongoImage = "mongo:7.0"

func newMongo(durable bool) engine {
	return engine{
		name: "mongodb", title: "MongoDB", env: mongoEnv,
		answers: mongoAnswers,
		find:    findMongod,
		private: func(mongod, folder string) (recipe, error) { return privateMongo(mongod, folder, durable) },
		image:   mongoImage,
		contained: func(folder string) (recipe, error) {
			return containedMongo(folder, durable)
		},
		install: installMongod,
	}
}

func privateMongo(mongod, folder string, durable bool) (recipe, error) {
	port, err := freePort()
	if err != nil {
		return recipe{}, err
	}
	set := newSetName()
	return recipe{
		server: append([]string{
			mongod, "--dbpath", folder, "--bind_ip", "127.0.0.1", "--nounixsocket",
		}, mongoSettings(port, set)...),
		dir:     folder,
		log:     folder + ".log",
		url:     mongoURL(port, set),
		answers: mongoInitiates(port, set, durable),
		stop:    syscall.SIGTERM,
		orphan:  syscall.SIGKILL, // nobody wants its data any more
		portTaken: func(log string) bool {
			return strings.Contains(log, "Address already in use")
		},
	}, nil
}

func containedMongo(folder string, durable bool) (recipe, error) {
	port, err := freePort()
	if err != nil {
		return recipe{}, err
	}
	set := newSetName()
	// The same port inside and outside, because a member of a replica set must
	// reach itself under the name that its clients use.
	r := container(folder, mongoImage,
		[]string{"--publish", fmt.Sprintf("127.0.0.1:%d:%d", port, port)},
		append([]string{"mongod", "--bind_ip_all"}, mongoSettings(port, set)...))
	r.url = mongoURL(port, set)
	r.answers = mongoInitiates(port, set, durable)
	return r, nil
}

// newSetName returns a name that no other run has, so that a server which took
// our port can't be mistaken for ours.
func newSetName() string { return "urbandata-" + rand.Text()[:8] }

// mongoSettings keep a server small that serves tests only.
func mongoSettings(port int, set string) []string {
	return []string{
		"--port", strconv.Itoa(port), "--replSet", set, "--quiet",
		"--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64",
		"--setParameter", "diagnosticDataCollectionEnabled=false",
	}
}

func mongoURL(port int, set string) string {
	return (&url.URL{
		Scheme:   "mongodb",
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path:     "/",
		RawQuery: url.Values{"replicaSet": {set}}.Encode(),
	}).String()
}

// alreadyInitialized is the code of MongoDB's answer to a second
// replSetInitiate.
const alreadyInitialized = 23

// mongoInitiates makes the server a replica set of one and waits until it is
// the primary.
func mongoInitiates(port int, set string, durable bool) func(context.Context, string) (string, error) {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	return func(ctx context.Context, _ string) (string, error) {
		// The driver looks again after half a second only; a refused
		// connection tells at once.
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return "", err
		}
		_ = conn.Close()
		return onMongo(ctx, "mongodb://"+address+"/?directConnection=true", func(admin *mongo.Database) error {
			config := bson.M{
				"_id":     set,
				"members": bson.A{bson.M{"_id": 0, "host": address}},
				// When false, a majority write doesn't wait for the journal.
				"writeConcernMajorityJournalDefault": durable,
			}
			err := admin.RunCommand(ctx, bson.D{{Key: "replSetInitiate", Value: config}}).Err()
			var answer mongo.CommandError
			if errors.As(err, &answer) && answer.Code == alreadyInitialized {
				err = nil
			}
			return err
		})
	}
}

// mongoAnswers asks a server that is complete.
func mongoAnswers(ctx context.Context, rawURL string) (string, error) {
	return onMongo(ctx, rawURL, func(*mongo.Database) error { return nil })
}

// onMongo runs first on the server, and returns its version if it is then the
// primary of a replica set.
func onMongo(ctx context.Context, rawURL string, first func(admin *mongo.Database) error) (string, error) {
	client, err := mongo.Connect(ctx, options.Client().ApplyURI(rawURL).SetServerSelectionTimeout(5*time.Second))
	if err != nil {
		return "", err
	}
	defer func() { _ = client.Disconnect(context.WithoutCancel(ctx)) }()
	admin := client.Database("admin")
	if err := first(admin); err != nil {
		return "", err
	}
	var hello struct {
		Primary bool   `bson:"isWritablePrimary"`
		SetName string `bson:"setName"`
	}
	if err := admin.RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello); err != nil {
		return "", err
	}
	if hello.SetName == "" {
		return "", errors.New("it isn't a member of a replica set, which transactions need")
	}
	if !hello.Primary {
		return "", errors.New("it isn't the primary yet")
	}
	var build struct {
		Version string `bson:"version"`
	}
	if err := admin.RunCommand(ctx, bson.D{{Key: "buildInfo", Value: 1}}).Decode(&build); err != nil {
		return "", err
	}
	return build.Version, nil
}

// findMongod returns the mongod in PATH, else the one that installMongod put
// into the cache.
func findMongod() string {
	if mongod, err := exec.LookPath("mongod"); err == nil {
		return mongod
	}
	cached, err := cachedMongod()
	if err != nil {
		return ""
	}
	if _, err := exec.LookPath(cached); err != nil {
		return ""
	}
	return cached
}

func cachedMongod() (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "mongod-"+wheelMongod, "mongod"), nil
}
