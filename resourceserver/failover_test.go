package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"github.com/urbandata/urbandata/pkg/cli/database"
	"github.com/urbandata/urbandata/test/engines"
)

// replicaSet is three members of MongoDB that a test may kill.
type replicaSet struct {
	t       testing.TB
	program string
	name    string
	hosts   [3]string
	folders [3]string
	running [3]*exec.Cmd
}

// startSet starts the members and waits for a primary.
func startSet(t testing.TB) *replicaSet {
	t.Helper()
	s := &replicaSet{t: t, program: engines.Mongod(t), name: "failover"}
	members := bson.A{}
	for i := range s.hosts {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		s.hosts[i], s.folders[i] = l.Addr().String(), t.TempDir()
		must(t, l.Close())
		members = append(members, bson.M{"_id": i, "host": s.hosts[i]})
		s.start(i)
	}
	admin := s.connect("mongodb://" + s.hosts[0] + "/?directConnection=true").Database("admin")
	config := bson.M{"_id": s.name, "members": members, "settings": bson.M{"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 250}}
	s.eventually("all three listen", func() bool {
		err := admin.RunCommand(t.Context(), bson.D{{Key: "replSetInitiate", Value: config}}).Err()
		var refused mongo.CommandError
		if errors.As(err, &refused) && refused.Name == "NodeNotFound" { // it isn't there yet
			return false
		}
		must(t, err)
		return true
	})
	s.eventually("there is a primary and two others", func() bool { return s.primary() >= 0 && s.states() == "SECONDARY SECONDARY" })
	return s
}

// start starts a member; the test's end kills it.
func (s *replicaSet) start(i int) {
	s.t.Helper()
	_, port, err := net.SplitHostPort(s.hosts[i])
	must(s.t, err)
	cmd := exec.Command(s.program, "--dbpath", s.folders[i], "--port", port, "--bind_ip", "127.0.0.1", "--replSet", s.name, "--quiet",
		"--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64", "--setParameter", "diagnosticDataCollectionEnabled=false")
	must(s.t, cmd.Start())
	s.running[i] = cmd
	s.t.Cleanup(func() { s.kill(i) })
}

// kill ends a member without asking.
func (s *replicaSet) kill(i int) {
	if cmd := s.running[i]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s.running[i] = nil
	}
}

func (s *replicaSet) connect(url string) *mongo.Client {
	s.t.Helper()
	client, err := mongo.Connect(s.t.Context(), options.Client().ApplyURI(url).SetServerSelectionTimeout(30*time.Second))
	must(s.t, err)
	s.t.Cleanup(func() { _ = client.Disconnect(context.WithoutCancel(s.t.Context())) })
	return client
}

// status is what some member that runs says of the set, by host.
func (s *replicaSet) status() map[string]string {
	for i, cmd := range s.running {
		if cmd == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
		client, err := mongo.Connect(ctx, options.Client().ApplyURI("mongodb://"+s.hosts[i]+"/?directConnection=true").SetServerSelectionTimeout(2*time.Second))
		must(s.t, err)
		var status struct {
			Members []struct{ Name, StateStr string } `bson:"members"`
		}
		err = client.Database("admin").RunCommand(ctx, bson.D{{Key: "replSetGetStatus", Value: 1}}).Decode(&status)
		_ = client.Disconnect(ctx)
		cancel()
		if err != nil {
			continue
		}
		states := map[string]string{}
		for _, m := range status.Members {
			states[m.Name] = m.StateStr
		}
		return states
	}
	return nil
}

// primary is the number of the member that is, or -1.
func (s *replicaSet) primary() int {
	states := s.status()
	for i, host := range s.hosts {
		if states[host] == "PRIMARY" {
			return i
		}
	}
	return -1
}

// states are those of the members that aren't the primary.
func (s *replicaSet) states() string {
	var others []string
	for _, state := range s.status() {
		if state != "PRIMARY" {
			others = append(others, state)
		}
	}
	return strings.Join(others, " ")
}

func (s *replicaSet) eventually(what string, ok func() bool) {
	s.t.Helper()
	const patience = 90 * time.Second
	deadline := time.After(patience)
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-deadline:
			s.t.Fatalf("still not: %s", what)
		}
	}
}

// TestFailover kills the primary of a replica set again and again while
// clients write through the API. No acknowledged write is lost, what can't be
// done meanwhile is answered 503 with Retry-After and nothing else, and the
// server goes on without a restart. In the last round two of three are killed.
func TestFailover(t *testing.T) {
	t.Parallel()
	const rounds, writers, before = 3, 4, 100
	set := startSet(t)
	url := "mongodb://" + strings.Join(set.hosts[:], ",") + "/failover?replicaSet=" + set.name
	db, err := database.OpenMongo(t.Context(), url)
	must(t, err)
	t.Cleanup(func() { _ = db.Client().Disconnect(context.WithoutCancel(t.Context())) })
	store := NewMongo(db)
	must(t, store.Prepare(t.Context()))
	c := newClient(t, store)

	var mu sync.Mutex // guards what follows
	acknowledged := map[string]string{}
	unavailable, other := 0, map[int]int{}
	var lastAck time.Time
	stop := make(chan struct{})
	var writing sync.WaitGroup
	for range writers {
		writing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a := c.do("POST", "/inmuebles", body())
				mu.Lock()
				switch {
				case a.Code == 201:
					acknowledged[a.Header().Get("Location")] = a.Body.String()
					lastAck = time.Now()
				case a.Code == 503 && a.Header().Get("Retry-After") != "":
					unavailable++
				default:
					other[a.Code]++
					t.Errorf("%d: %s", a.Code, a.Body)
				}
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	for round := range rounds {
		from := count()
		set.eventually("it writes", func() bool { return count() >= from+before })
		victim := set.primary()
		if victim < 0 {
			t.Fatal("there is no primary")
		}
		mu.Lock()
		refused := unavailable
		mu.Unlock()
		killed := time.Now()
		set.kill(victim)
		if round == rounds-1 {
			// With a second one gone there is no majority, and no write.
			second := (victim + 1) % len(set.hosts)
			set.kill(second)
			set.eventually("it says 503", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return unavailable > refused
			})
			set.start(second)
		}
		set.eventually("it writes again", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return lastAck.After(killed.Add(300 * time.Millisecond)) // what was under way may still be acknowledged
		})
		mu.Lock()
		t.Logf("round %d: primary killed after %d acknowledged writes; written again within %v; %d answers of 503 meanwhile",
			round+1, len(acknowledged), time.Since(killed).Round(time.Millisecond), unavailable-refused)
		mu.Unlock()
		set.start(victim)
		set.eventually("all three are back", func() bool { return set.primary() >= 0 && set.states() == "SECONDARY SECONDARY" })
	}
	close(stop)
	writing.Wait()

	lost := 0
	for location, want := range acknowledged {
		if a := c.do("GET", location, ""); a.Code != 200 || a.Body.String() != want {
			lost++
			t.Errorf("%s was acknowledged and is %d: %s", location, a.Code, a.Body)
		}
	}
	t.Logf("%d writes acknowledged, %d lost, %d answers of 503, others %s", len(acknowledged), lost, unavailable, fmt.Sprint(other))
}
