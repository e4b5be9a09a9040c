package resourceserver

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"pgregory.net/rapid"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// TestClausesProperty: what the index of words is asked for is in each
// document that a filter is true of, by the words that the index has.
func TestClausesProperty(t *testing.T) {
	some := 0
	rapid.Check(t, func(r *rapid.T) {
		text := "(" + anyTerm(r, 2) + ")"
		where, err := query.Parse(filterFields, map[string][]string{"and": {text}})
		if err != nil {
			r.Fatalf("%s: %v", text, err)
		}
		clauses := where.Clauses()
		if clauses != nil {
			some++
		}
		m := fewValues(r, "id")
		if !where.Match(m.filterValue) {
			return
		}
		words := query.Words(m.Title, m.Description)
		for _, clause := range clauses {
			if !slices.ContainsFunc(clause, func(want string) bool {
				return slices.ContainsFunc(words, func(word string) bool {
					beginning, ok := strings.CutSuffix(want, "*")
					return word == want || ok && strings.HasPrefix(word, beginning)
				})
			}) {
				r.Fatalf("%s is true of %q, %q, which has none of %q", text, m.Title, m.Description, clause)
			}
		}
	})
	if some == 0 {
		t.Error("no filter asks the index")
	}
}

// TestEveryCharacterIsFound: a word of any character is found by the index of
// words, whole and by its beginning, alone and in the middle.
func TestEveryCharacterIsFound(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			rows := Batch{Rows: func(yield func(Row, error) bool) {
				for r := rune(1); r < 0x2_0000; r += 509 { // a prime: a few of each block
					if r >= 0xD800 && r < 0xE000 {
						continue
					}
					m := sample(fmt.Sprintf("%06x", r))
					m.Title, m.Description = "x"+string(r)+"y", string(r)
					if !yield(Row{m, allGiven}, nil) {
						return
					}
				}
				for _, r := range "`;\u0387\u1FEF\u037E\u1FEE\u1FFDßſKŀǅİıµªº" {
					m := sample(fmt.Sprintf("%06x", r))
					m.Title, m.Description = "x"+string(r)+"y", string(r)
					if !yield(Row{m, allGiven}, nil) {
						return
					}
				}
			}}
			_, err := store.Load(t.Context(), rows)
			must(t, err)
			settled(t, store)
			for row, err := range rows.Rows {
				must(t, err)
				m := row.Inmueble
				for _, text := range []string{"plfts." + m.Title, "plfts." + m.Description, "fts." + strings.ToLower(m.Title[:1]) + ":*"} {
					where, err := query.Parse(filterFields, map[string][]string{"text": {text}})
					if err != nil {
						continue // no word
					}
					n, err := store.Count(t.Context(), query.Join(where, onID(t, m.ID)), 0)
					if err != nil || n != 1 {
						t.Fatalf("%q: %d found, %v", text, n, err)
					}
				}
			}
		})
	}
}

func onID(t testing.TB, id string) query.Node {
	t.Helper()
	n, err := query.Parse(filterFields, map[string][]string{"_id": {"eq." + id}})
	must(t, err)
	return n
}

// TestWordsOfOthers: a document that another program added, changed or put
// anew is found by the words that it has: on SQLite at once, on MongoDB once
// the server has heard of it.
func TestWordsOfOthers(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			m := sample("a")
			m.Title, m.Description = "Piso en Sol", "Luminoso"
			must(t, store.Insert(t.Context(), m))
			settled(t, store)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- store.(interface{ Run(context.Context) error }).Run(ctx) }()
			defer func() {
				stop()
				must(t, <-ended)
			}()
			find := func(words string) string {
				q := queryOf(t, "text=plfts."+url.QueryEscape(words))
				q.Limit = 10
				page, err := store.Find(t.Context(), q)
				must(t, err)
				var ids []string
				for _, m := range page.Items {
					ids = append(ids, m.ID)
				}
				return strings.Join(ids, " ")
			}
			soon := func(when, words, want string) {
				t.Helper()
				deadline := time.Now().Add(20 * time.Second)
				for got := find(words); got != want; got = find(words) {
					if store, ok := store.(*SQLite); ok || time.Now().After(deadline) {
						t.Fatalf("%s: %q finds %q, want %q (%T)", when, words, got, want, store)
					}
				}
			}
			soon("of ours", "SOL", "a")
			byOthers(t, store, "a", map[string]any{"title": "Ático en Triana"})
			soon("changed", "atico triana", "a")
			soon("changed", "sol", "")
			soon("the rest", "luminoso", "a")
			byOthers(t, store, "a", map[string]any{"description": "Oscuro"})
			soon("changed again", "oscuro", "a")
			if s, ok := store.(*Mongo); ok {
				m.ID, m.Title = "b", "Dúplex"
				var doc bson.M
				must(t, bson.Unmarshal(m.appendBSON(nil), &doc))
				delete(doc, query.WordsPath)
				_, err := s.inmuebles.InsertOne(t.Context(), doc)
				must(t, err)
				if got := find("duplex"); got != "b" { // at once
					t.Errorf("added without a list: %q", got)
				}
				lists := func(n int64) {
					t.Helper()
					for deadline := time.Now().Add(20 * time.Second); ; {
						without, err := s.inmuebles.CountDocuments(t.Context(), bson.M{query.WordsPath: nil})
						must(t, err)
						if without == n {
							return
						}
						if time.Now().After(deadline) {
							t.Fatalf("%d are without a list, want %d", without, n)
						}
					}
				}
				lists(0)
				doc[query.WordsPath], doc["title"] = bson.A{"WRONG"}, "Chalé"
				_, err = s.inmuebles.ReplaceOne(t.Context(), bson.M{"_id": "b"}, doc)
				must(t, err)
				soon("put anew with another's list", "chale", "b")
				_, err = s.inmuebles.UpdateByID(t.Context(), "b", bson.M{"$unset": bson.M{"title": 1}, "$set": bson.M{query.WordsPath: bson.A{}}})
				must(t, err)
				soon("without a title", "luminoso", "b")
				return
			}
			s := store.(*SQLite)
			_, err := s.write.ExecContext(t.Context(), `INSERT INTO inmuebles (id, owner, document) SELECT 'b', '', document FROM inmuebles`)
			must(t, err)
			soon("added", "triana", "a b")
			_, err = s.write.ExecContext(t.Context(), `DELETE FROM inmuebles WHERE id = 'a'`)
			must(t, err)
			soon("removed", "triana", "b")
		})
	}
}

// TestWordsAreChecked: what is in the database when a server starts has its
// list in the end, whoever wrote it.
func TestWordsAreChecked(t *testing.T) {
	store, _ := openMongo(t)
	s := store.(*Mongo)
	for i := range importBatch + 3 {
		must(t, s.Insert(t.Context(), sample(fmt.Sprintf("%05d", i))))
	}
	_, err := s.inmuebles.UpdateMany(t.Context(), bson.M{"_id": bson.M{"$lt": "00100"}}, bson.M{"$unset": bson.M{query.WordsPath: 1}})
	must(t, err)
	_, err = s.inmuebles.UpdateMany(t.Context(), bson.M{"_id": bson.M{"$gte": "00900"}}, bson.M{"$set": bson.M{"title": "Otra"}})
	must(t, err)
	must(t, s.checkWords(t.Context()))
	n, err := s.inmuebles.CountDocuments(t.Context(), bson.M{query.WordsPath: "OTRA"})
	must(t, err)
	without, err := s.inmuebles.CountDocuments(t.Context(), bson.M{query.WordsPath: nil})
	must(t, err)
	if n != importBatch+3-900 || without != 0 {
		t.Errorf("%d have the word, %d have no list", n, without)
	}
}

// TestWordsPlan: what is looked at for a word that few documents have is
// those, however many others there are; and for a word that many have, the
// first of an order.
func TestWordsPlan(t *testing.T) {
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			looked := map[int]map[string]int{}
			for _, n := range []int{2500, 10_000} {
				store, _ := e.open(t)
				_, err := store.Load(t.Context(), Batch{Rows: func(yield func(Row, error) bool) {
					for i := range n {
						m := sample(fmt.Sprintf("%06d", i))
						m.Title, m.Description = fmt.Sprintf("Piso %d", i), "Luminoso, con vistas"
						m.Date = fmt.Sprintf("20%02d-%02d-%02d", i%20, 1+i%12, 1+i%28)
						if i%100 == 7 && i < 2500 {
							m.Description = "Con zaguán"
						}
						if !yield(Row{m, allGiven}, nil) {
							return
						}
					}
				}})
				must(t, err)
				settled(t, store)
				looked[n] = map[string]int{}
				for _, text := range []string{
					"text=plfts.zaguan&order=date.desc", "text=plfts.zaguan con", "description=fts.zagu:*|nada&order=date.desc",
					"text=fts.zaguán%26(piso|ático)&order=title", "text=plfts.piso&order=date.desc", "text=plfts.ausente&order=date.desc",
				} {
					q := queryOf(t, strings.ReplaceAll(text, " ", "%20"))
					q.Limit = 20
					looked[n][text] = lookedAt(t, store, q)
				}
			}
			for text, few := range looked[2500] {
				many := looked[10_000][text]
				t.Logf("%s: %d looked at of 2,500, %d of 10,000", text, few, many)
				if few > 100 || many > few+1 {
					t.Errorf("%s: %d looked at of 2,500, %d of 10,000", text, few, many)
				}
			}
		})
	}
}
