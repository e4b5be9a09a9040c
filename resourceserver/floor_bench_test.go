package resourceserver

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/jmoiron/sqlx"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"

	"github.com/urbandata/urbandata/pkg/token"
	"github.com/urbandata/urbandata/pkg/verify"
	"github.com/urbandata/urbandata/pkg/verify/verifytest"
	"github.com/urbandata/urbandata/resourceserver/query"
)

// The floor is the least that a service of this kind can do: net/http, one
// statement of the bare driver, the token's signature and one decode of its
// claims as golang-jwt does them, and JSON made of what is stored, as it
// stands. It routes nothing, checks nothing that comes out of the database or
// goes in, knows no other spelling of the query, writes no log and counts
// nothing.
type floor struct {
	http.Handler
	public ed25519.PublicKey
}

// verify is a token's check without a cache.
func (f *floor) verify(r *http.Request) bool {
	raw, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return false
	}
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		return false
	}
	var h map[string]any
	if json.Unmarshal(header, &h) != nil || h["alg"] != "EdDSA" {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var claims token.Claims
	if json.Unmarshal(payload, &claims) != nil || !time.Now().Before(claims.ExpiresAt()) {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	return err == nil && ed25519.Verify(f.public, []byte(parts[0]+"."+parts[1]), signature)
}

// threeConditions is the example of a filter.
const threeConditions = "listing_type=eq.1&property_type=in.(1,2)&start_month=gte.3&order=date.desc"

// theBox has more than 50 of the made-up inmuebles, and most of them not.
const theBox = "-3.75,40.38,-3.68,40.44"

func newFloor(b *testing.B, store Store, public ed25519.PublicKey) *floor {
	b.Helper()
	f := &floor{public: public}
	var get, list, three, box, post func(w http.ResponseWriter, r *http.Request)
	switch s := store.(type) {
	case *SQLite:
		read := func(where string, args ...any) func(http.ResponseWriter, *http.Request) {
			stmt, err := sqlx.Preparex(s.finds.db, "SELECT id, owner, created_at, updated_at, document FROM inmuebles "+where)
			must(b, err)
			b.Cleanup(func() { _ = stmt.Close() })
			return func(w http.ResponseWriter, r *http.Request) {
				values := args
				if values == nil {
					values = []any{r.PathValue("id")}
				}
				rows, err := stmt.QueryContext(r.Context(), values...)
				if err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
					return
				}
				defer func() { _ = rows.Close() }()
				body := append(make([]byte, 0, 48<<10), '[')
				for rows.Next() {
					var id, owner string
					var created, updated int64
					var document sql.RawBytes
					if err := rows.Scan(&id, &owner, &created, &updated, &document); err != nil {
						http.Error(w, err.Error(), http.StatusInternalServerError)
						return
					}
					body = storedAsJSON(body, id, owner, created, updated, document)
				}
				if err := rows.Err(); err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
					return
				}
				sendJSON(w, http.StatusOK, body)
			}
		}
		get = read("WHERE id = ?")
		list = read("ORDER BY date_key DESC, id LIMIT 50", []any{}...)
		three = read("WHERE listing_type = ? AND property_type IN (?,?) AND start_month >= ? ORDER BY date_key DESC, id LIMIT 50", 1, 1, 2, 3)
		const x, y = "(document ->> '$.x_coord')", "(document ->> '$.y_coord')" // as the index has them
		box = read("WHERE "+x+" >= ? AND "+x+" <= ? AND "+y+" >= ? AND "+y+" <= ? ORDER BY "+x+", id DESC LIMIT 50", -3.75, -3.68, 40.38, 40.44)
		insert, err := sqlx.Preparex(s.write, `INSERT INTO inmuebles (id, owner, created_at, updated_at, document) VALUES (?, ?, ?, ?, ?)`)
		must(b, err)
		b.Cleanup(func() { _ = insert.Close() })
		post = func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			var m posted
			if err != nil || json.Unmarshal(body, &m) != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			id, now := NewID(), time.Now().UnixMilli()
			document, _ := json.Marshal(m)
			if _, err := insert.ExecContext(r.Context(), id, "alice", now, now, string(document)); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			sendJSON(w, http.StatusCreated, storedAsJSON(nil, id, "alice", now, now, document))
		}
	case *Mongo:
		read := func(limit int64, filter any, sort bson.D) func(http.ResponseWriter, *http.Request) {
			return func(w http.ResponseWriter, r *http.Request) {
				wanted := filter
				if wanted == nil {
					wanted = bson.D{{Key: "_id", Value: r.PathValue("id")}}
				}
				o := options.Find().SetProjection(bson.D{{Key: query.WordsPath, Value: 0}}).SetLimit(limit).SetBatchSize(int32(limit) + 1)
				if sort != nil {
					o.SetSort(sort)
				}
				cursor, err := s.inmuebles.Find(r.Context(), wanted, o)
				if err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
					return
				}
				defer func() { _ = cursor.Close(r.Context()) }()
				body := append(make([]byte, 0, 48<<10), '[')
				for cursor.Next(r.Context()) {
					body = rawAsJSON(body, cursor.Current)
				}
				sendJSON(w, http.StatusOK, body)
			}
		}
		by := bson.D{{Key: "date_key", Value: -1}, {Key: "_id", Value: 1}}
		get = read(1, nil, nil)
		list = read(50, bson.D{}, by)
		three = read(50, bson.D{
			{Key: "listing_type", Value: 1},
			{Key: "property_type", Value: bson.D{{Key: "$in", Value: bson.A{1, 2}}}},
			{Key: "start_month", Value: bson.D{{Key: "$gte", Value: 3}}},
		}, by)
		box = read(50, bson.D{
			{Key: "x_coord", Value: bson.D{{Key: "$gte", Value: -3.75}, {Key: "$lte", Value: -3.68}}},
			{Key: "y_coord", Value: bson.D{{Key: "$gte", Value: 40.38}, {Key: "$lte", Value: 40.44}}},
		}, bson.D{{Key: "x_coord", Value: 1}, {Key: "_id", Value: -1}})
		post = func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			var m posted
			if err != nil || json.Unmarshal(body, &m) != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			m.ID, m.Owner, m.CreatedAt = NewID(), "alice", primitive.NewDateTimeFromTime(time.Now())
			m.UpdatedAt, m.DateKey, m.DateInKey = m.CreatedAt, m.Date, m.DateIn
			document, err := bson.Marshal(m)
			if err == nil {
				_, err = s.inmuebles.InsertOne(r.Context(), bson.Raw(document))
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			sendJSON(w, http.StatusCreated, rawAsJSON(nil, document))
		}
	default:
		b.Fatal("a store without a floor")
	}
	routes := http.NewServeMux()
	routes.HandleFunc("GET /inmuebles/{id}", get)
	routes.HandleFunc("GET /list", list)
	routes.HandleFunc("GET /three", three)
	routes.HandleFunc("GET /box", box)
	routes.HandleFunc("POST /inmuebles", post)
	f.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !f.verify(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		routes.ServeHTTP(w, r)
	})
	return f
}

// posted is a body as encoding/json and the driver take it.
type posted struct {
	ID               string             `json:"-" bson:"_id"`
	OtherID          string             `json:"other_id" bson:"other_id"`
	BuildStatus      int32              `json:"build_status" bson:"build_status"`
	IsActive         bool               `json:"is_active" bson:"is_active"`
	StartMonth       int32              `json:"start_month" bson:"start_month"`
	ConstructionType *int32             `json:"construction_type,omitempty" bson:"construction_type,omitempty"`
	DateDiff         int32              `json:"date_diff,omitempty" bson:"date_diff,omitempty"`
	Description      string             `json:"description,omitempty" bson:"description,omitempty"`
	DateIn           string             `json:"date_in" bson:"date_in"`
	PropertyType     int32              `json:"property_type" bson:"property_type"`
	EndWeek          int32              `json:"end_week" bson:"end_week"`
	TypologyType     int32              `json:"typology_type" bson:"typology_type"`
	XCoord           float64            `json:"x_coord" bson:"x_coord"`
	YCoord           float64            `json:"y_coord" bson:"y_coord"`
	BoundaryID       *int32             `json:"boundary_id,omitempty" bson:"boundary_id,omitempty"`
	Title            string             `json:"title,omitempty" bson:"title,omitempty"`
	ListingType      int32              `json:"listing_type" bson:"listing_type"`
	Date             string             `json:"date" bson:"date"`
	DateKey          string             `json:"-" bson:"date_key"`
	DateInKey        string             `json:"-" bson:"date_in_key"`
	Owner            string             `json:"-" bson:"owner"`
	CreatedAt        primitive.DateTime `json:"-" bson:"created_at"`
	UpdatedAt        primitive.DateTime `json:"-" bson:"updated_at"`
}

func sendJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// storedAsJSON adds a row as it stands.
func storedAsJSON(b []byte, id, owner string, created, updated int64, document []byte) []byte {
	if len(b) > 1 {
		b = append(b, ',')
	}
	b = append(append(append(b, `{"_id":"`...), id...), `","owner":"`...)
	b = append(append(b, owner...), `","created_at":`...)
	b, _ = appendMilli(b, sql.NullInt64{Int64: created, Valid: true})
	b = append(b, `,"updated_at":`...)
	b, _ = appendMilli(b, sql.NullInt64{Int64: updated, Valid: true})
	return append(append(b, ','), document[1:]...)
}

// rawAsJSON adds a document's elements as they stand, and allocates nothing.
func rawAsJSON(b []byte, document bson.Raw) []byte {
	if len(b) > 1 {
		b = append(b, ',')
	}
	_, rest, _ := bsoncore.ReadLength(document)
	for next := byte('{'); len(rest) > 1; next = ',' {
		e, behind, ok := bsoncore.ReadElement(rest)
		if !ok {
			panic("broken BSON")
		}
		rest = behind
		if e.Value().Type == bson.TypeArray { // the words, which are in no answer
			continue
		}
		b = append(append(append(b, next, '"'), e.KeyBytes()...), `":`...)
		switch v := e.Value(); v.Type {
		case bson.TypeString:
			b, _ = jsontext.AppendQuote(b, v.Data[4:len(v.Data)-1])
		case bson.TypeInt32:
			b = strconv.AppendInt(b, int64(v.Int32()), 10)
		case bson.TypeDouble:
			b = strconv.AppendFloat(b, v.Double(), 'f', -1, 64)
		case bson.TypeBoolean:
			b = strconv.AppendBool(b, v.Boolean())
		case bson.TypeDateTime:
			b, _ = appendMilli(b, sql.NullInt64{Int64: v.DateTime(), Valid: true})
		case bson.TypeArray: // the words, of a document that wasn't read from the database
			b = append(b, "[]"...)
		case bson.TypeObjectID:
			b = append(hex.AppendEncode(append(b, '"'), v.Data), '"')
		default:
			panic(v.Type)
		}
	}
	return append(b, '}')
}

// clientEnv makes of this test program a client that asks what its standard
// input says, so that what a server costs can be told from what asking does.
const clientEnv = "URBANDATA_BENCH_CLIENT"

func TestMain(m *testing.M) {
	if os.Getenv(clientEnv) != "" {
		if err := askAll(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// question is a line of a client's input: so many requests, by so many
// connections. The bearers are kept for the questions that follow.
type question struct {
	Bearers     []string
	Times       int
	Connections int
	Method, URL string
	Body        string
	Status      int
}

func askAll(in io.Reader, out io.Writer) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
	var bearers []string
	var next atomic.Int64
	for lines := json.NewDecoder(in); ; {
		var q question
		if err := lines.Decode(&q); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if q.Bearers != nil {
			bearers = q.Bearers
		}
		ask := func() error {
			r, err := http.NewRequestWithContext(context.Background(), q.Method, q.URL, strings.NewReader(q.Body))
			if err != nil {
				return err
			}
			r.Header.Set("Authorization", "Bearer "+bearers[int(next.Add(1))%len(bearers)])
			if q.Body != "" {
				r.Header.Set("Content-Type", "application/json")
			}
			w, err := client.Do(r)
			if err != nil {
				return err
			}
			body, err := io.ReadAll(w.Body)
			if err := w.Body.Close(); err != nil {
				return err
			}
			if w.StatusCode != q.Status {
				return fmt.Errorf("%s %s: %d %.200s", q.Method, q.URL, w.StatusCode, body)
			}
			return err
		}
		var failed atomic.Value
		var left atomic.Int64
		left.Store(int64(q.Times))
		var asking sync.WaitGroup
		for range q.Connections {
			asking.Go(func() {
				for left.Add(-1) >= 0 {
					if err := ask(); err != nil {
						failed.Store(err)
						return
					}
				}
			})
		}
		asking.Wait()
		if err, ok := failed.Load().(error); ok {
			return err
		}
		if _, err := fmt.Fprintln(out, "done"); err != nil {
			return err
		}
	}
}

// asker returns a function that has another process ask, and returns when it
// has all the answers.
func newAsker(b *testing.B) func(question) {
	b.Helper()
	program, err := os.Executable()
	must(b, err)
	cmd := exec.CommandContext(b.Context(), program)
	cmd.Env = append(os.Environ(), clientEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(b, err)
	out, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // the context may have ended it
	})
	done := bufio.NewReader(out)
	return func(q question) {
		must(b, json.NewEncoder(in).Encode(q))
		if line, err := done.ReadString('\n'); err != nil || line != "done\n" {
			b.Fatalf("the client says %q, %v", line, err)
		}
	}
}

// serve starts a server as package web does.
func serve(b *testing.B, h http.Handler) (url string) {
	b.Helper()
	l, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	must(b, err)
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	b.Cleanup(func() { _ = srv.Close() })
	return "http://" + l.Addr().String()
}

// processor is the time that processors have spent on this program.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFloor measures what a request costs the server's processors, whole
// and over loopback, against the floor: 32 connections of another process ask
// both by turns. "new tokens" are such as the server hasn't met, "seen" one
// that it has; the floor verifies each alike. The metric is the median of the
// turns' ratios; ms/ours and ms/floor are the least of all turns, a request.
func BenchmarkFloor(b *testing.B) {
	const turn, connections = 320, 32
	for _, e := range theEngines {
		for _, size := range []int{20_000, 200_000} {
			b.Run(fmt.Sprintf("%s/%d", e.name, size), func(b *testing.B) {
				store, _ := e.open(b)
				_, err := store.Load(b.Context(), Batch{Rows: Samples(1, size, "owner-1")})
				must(b, err)
				issuer := verifytest.NewIssuer(b)
				public, _ := issuer.PublicKey(verify.EdDSA).(ed25519.PublicKey)
				tokens := issuer.Options()
				tokens.TokenCacheBytes = 1 << 20 // fewer than there are, so that they are new when they come again
				verifier, err := verify.New(tokens)
				must(b, err)
				running, stop := context.WithCancel(b.Context())
				defer stop()
				go func() { _ = verifier.Run(running) }()
				must(b, verifier.Wait(b.Context()))
				// The log goes nowhere, but is written.
				log := slog.New(slog.NewJSONHandler(io.Discard, nil))
				server, err := New(Options{Store: store, Verifier: verifier, Log: log})
				must(b, err)
				ours, least := serve(b, server), serve(b, newFloor(b, store, public))

				ask := newAsker(b)
				fresh := make([]string, 4000)
				for i := range fresh {
					fresh[i] = issuer.Mint(verify.EdDSA, issuer.Claims("0199d0f4-7c1e-7000-8000-000000000001", token.ScopeInmueblesRead, token.ScopeInmueblesWrite))
				}
				one := "/inmuebles/" + fmt.Sprintf("de300001%016x", size/2)
				listed := pathAll + "?order=date.desc&limit=50"
				for _, bm := range []struct {
					name, method, ours, floor string
					seen                      bool
				}{
					{"get, new tokens", http.MethodGet, one, one, false},
					{"get, token seen", http.MethodGet, one, one, true},
					{"list of 50, new tokens", http.MethodGet, listed, "/list", false},
					{"list of 50, token seen", http.MethodGet, listed, "/list", true},
					{"3 conditions, new tokens", http.MethodGet, pathAll + "?" + threeConditions + "&limit=50", "/three", false},
					{"3 conditions, token seen", http.MethodGet, pathAll + "?" + threeConditions + "&limit=50", "/three", true},
					{"box, new tokens", http.MethodGet, pathAll + "?bbox=" + theBox + "&limit=50", "/box", false},
					{"box, token seen", http.MethodGet, pathAll + "?bbox=" + theBox + "&limit=50", "/box", true},
					{"post, new tokens", http.MethodPost, pathAll, pathAll, false},
					{"post, token seen", http.MethodPost, pathAll, pathAll, true},
				} {
					b.Run(bm.name, func(b *testing.B) {
						q := question{Times: turn, Connections: connections, Method: bm.method, Status: http.StatusOK}
						if bm.method == http.MethodPost {
							q.Status, q.Body = http.StatusCreated, body()
						}
						cost := func(url string) float64 {
							q.URL = url
							before := processor()
							ask(q)
							return float64(processor()-before) / turn / 1e6
						}
						q.Bearers = fresh
						if bm.seen {
							q.Bearers = fresh[:1]
						}
						cost(least + bm.floor) // connections and statements are made
						cost(ours + bm.ours)
						q.Bearers = nil
						var ratios []float64
						quietest := [2]float64{math.Inf(1), math.Inf(1)}
						for b.Loop() {
							f := cost(least + bm.floor)
							o := cost(ours + bm.ours)
							ratios = append(ratios, o/f)
							quietest[0], quietest[1] = min(quietest[0], o), min(quietest[1], f)
						}
						slices.Sort(ratios)
						b.ReportMetric(0, "ns/op") // of a turn
						b.ReportMetric(ratios[len(ratios)/2], "x/floor")
						b.ReportMetric(quietest[0], "ms/ours")
						b.ReportMetric(quietest[1], "ms/floor")
					})
				}
			})
		}
	}
}

// TestFloorAnswers: the floor of the benchmarks answers with the documents
// that we answer with, so that the two do the same work.
func TestFloorAnswers(t *testing.T) {
	for _, members := range []string{"_id", "title", "description", "date", "owner"} {
		m := sample("65f1c0ffee65f1c0ffee65f1")
		var ours, floor map[string]any
		must(t, json.Unmarshal(m.AppendJSON(nil), &ours))
		must(t, json.Unmarshal(rawAsJSON(nil, m.appendBSON(nil)), &floor))
		if ours[members] != floor[members] {
			t.Errorf("MongoDB: %s is %v, and %v at the floor", members, ours[members], floor[members])
		}
		clear(floor)
		must(t, json.Unmarshal(storedAsJSON(nil, m.ID, m.Owner, m.CreatedAt.UnixMilli(), m.UpdatedAt.UnixMilli(), m.appendStored(nil)), &floor))
		if ours[members] != floor[members] {
			t.Errorf("SQLite: %s is %v, and %v at the floor", members, ours[members], floor[members])
		}
	}
}

// BenchmarkDepth measures what a page at depth 100,000 of 200,000 documents
// costs against the first, by cursor: all processors' time, the database's
// too. The two are asked by turns.
func BenchmarkDepth(b *testing.B) {
	const size, depth, turn = 200_000, 100_000, 200
	for _, e := range theEngines {
		b.Run(e.name, func(b *testing.B) {
			store, _ := e.open(b)
			_, err := store.Load(b.Context(), Batch{Rows: Samples(1, size, "owner-1")})
			must(b, err)
			issuer := verifytest.NewIssuer(b)
			server, err := New(Options{Store: store, Verifier: issuer.Verifier(b)})
			must(b, err)
			at := serve(b, server) + pathAll + "?order=date.desc&limit=50"
			before := queryOf(b, "order=date.desc")
			before.Skip, before.Limit = depth-1, 1
			page, err := store.Find(b.Context(), before)
			must(b, err)
			deep := &cursor{order: before.Order.String(), after: page.After}

			ask := newAsker(b)
			q := question{
				Times: turn, Connections: 8, Method: http.MethodGet, Status: http.StatusOK,
				Bearers: []string{issuer.Token("alice", token.ScopeInmueblesRead)},
			}
			spent := func() time.Duration { return processor() + processorOfMongo(b, store) }
			cost := func(url string) float64 {
				q.URL = url
				before := spent()
				ask(q)
				return float64(spent()-before) / turn / 1e6
			}
			first, middle := at, at+"&cursor="+deep.encode(server.cursorKey)
			cost(first)
			cost(middle)
			var took [2]float64
			for b.Loop() {
				took[0] += cost(first)
				took[1] += cost(middle)
			}
			b.ReportMetric(0, "ns/op") // of a turn
			b.ReportMetric(took[0]/float64(b.N), "ms/first")
			b.ReportMetric(took[1]/took[0], "x/first")
		})
	}
}

// processorOfMongo is the time that processors have spent on the server, to
// 10 ms; 0 for a store that has none.
func processorOfMongo(b *testing.B, store Store) time.Duration {
	s, ok := store.(*Mongo)
	if !ok {
		return 0
	}
	var status struct {
		PID int64 `bson:"pid"`
	}
	must(b, s.inmuebles.Database().RunCommand(b.Context(), bson.D{{Key: "serverStatus", Value: 1}}).Decode(&status))
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", status.PID))
	must(b, err)
	_, behind, _ := strings.Cut(string(text), ") ") // its name may hold anything
	parts := strings.Fields(behind)
	var ticks time.Duration
	for _, part := range parts[11:13] { // utime and stime
		n, err := strconv.Atoi(part)
		must(b, err)
		ticks += time.Duration(n)
	}
	return ticks * time.Second / 100
}

// BenchmarkParse is what reading a query costs: parameters, conditions and
// order, up to what a store is asked.
func BenchmarkParse(b *testing.B) {
	for _, bm := range []struct{ name, query string }{
		{"3 conditions", threeConditions},
		{"the issue's example", "listing_type=eq.1&property_type=in.(1,2)&start_month=gte.3&title=ilike.*piso*&or=(boundary_id.is.null,construction_type.not.eq.3)&order=date.desc.nullslast,_id"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			before := processor() // the clock also has what others do meanwhile
			for b.Loop() {
				values, err := url.ParseQuery(bm.query)
				must(b, err)
				_, _, err = parseFilter(values)
				must(b, err)
			}
			b.ReportMetric(float64((processor()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}
