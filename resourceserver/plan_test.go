package resourceserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// documentedQueries are those that docs/api.md says an index serves.
func documentedQueries(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../docs/api.md")
	must(t, err)
	_, table, ok := strings.Cut(string(page), "<!-- queries -->")
	table, _, end := strings.Cut(table, "<!-- end -->")
	if !ok || !end {
		t.Fatal("docs/api.md has no table of queries")
	}
	var queries []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(table, -1) {
		_, q, _ := strings.Cut(m[1], "?")
		queries = append(queries, q)
	}
	if len(queries) < 10 {
		t.Fatalf("found %d queries", len(queries))
	}
	return queries
}

// plans are the parts of an engine's plan for a query that cost too much, and
// the plan.
type planner func(t *testing.T, q Query) (costly []string, plan string)

func planSQLite(s *SQLite) planner {
	return func(t *testing.T, q Query) (costly []string, plan string) {
		all, err := s.steps(t.Context(), &q)
		must(t, err)
		for i := range all {
			text, args := findSQL(&q, &all[i], true)
			statements := map[string][]any{text: append(args, q.Limit+1, q.Skip)}
			if !q.Order.ByDistance() {
				text, args = findSQL(&q, &all[i], false)
				statements[text] = append(args, q.Limit+1, q.Skip)
			}
			for text, args := range statements {
				var steps []struct {
					ID, Parent, Notused int
					Detail              string
				}
				must(t, s.finds.db.SelectContext(t.Context(), &steps, "EXPLAIN QUERY PLAN "+text, args...))
				for _, step := range steps {
					plan += step.Detail + "\n"
					table := strings.HasPrefix(step.Detail, "SCAN") && !strings.HasPrefix(step.Detail, "SCAN (subquery") // which is packed
					if strings.Contains(step.Detail, "TEMP B-TREE") || table && !strings.Contains(step.Detail, "INDEX") {
						costly = append(costly, step.Detail)
					}
				}
			}
		}
		return costly, plan
	}
}

func planMongo(s *Mongo) planner {
	return func(t *testing.T, q Query) (costly []string, plan string) {
		filter, computed, sort := mongoPlan(&q)
		if computed != nil {
			costly = append(costly, "an order that no index has")
		}
		var answer bson.M
		must(t, s.inmuebles.Database().RunCommand(context.WithoutCancel(t.Context()), bson.D{
			{Key: "explain", Value: bson.D{
				{Key: "find", Value: s.inmuebles.Name()},
				{Key: "filter", Value: filter},
				{Key: "sort", Value: sort},
				{Key: "skip", Value: q.Skip},
				{Key: "limit", Value: q.Limit + 1},
			}},
			{Key: "verbosity", Value: "queryPlanner"},
		}).Decode(&answer))
		found, ok := answer["queryPlanner"].(bson.M)
		if !ok {
			t.Fatalf("a plan of another form: %v", answer)
		}
		winner, err := json.Marshal(found["winningPlan"])
		must(t, err)
		for _, stage := range []string{"COLLSCAN", "SORT"} {
			if strings.Contains(string(winner), fmt.Sprintf(`"stage":%q`, stage)) {
				costly = append(costly, stage)
			}
		}
		return costly, string(winner)
	}
}

// TestPlans: no query that is documented looks at every document or sorts in
// memory, on its first page, on one behind it, or on the way back.
func TestPlans(t *testing.T) {
	queries := documentedQueries(t)
	for _, e := range theEngines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			store, _ := e.open(t)
			_, err := store.Load(t.Context(), Batch{Rows: func(yield func(Row, error) bool) {
				for i := range 3000 {
					m := sample(fmt.Sprintf("%06d", i))
					boundary := int32(i % 50)
					m.ListingType, m.PropertyType, m.StartMonth, m.BoundaryID = int32(i%5), int32(i%7), int32(i%12), &boundary
					m.XCoord, m.YCoord = -9+float64(i%130)/10, 36+float64(i%77)/10
					m.Date, m.OtherID, m.Owner = fmt.Sprintf("20%02d-%02d-%02d", i%20, 1+i%12, 1+i%28), fmt.Sprintf("A%d", i%900), fmt.Sprintf("owner-%d", i%40)
					if !yield(Row{m, allGiven}, nil) {
						return
					}
				}
			}})
			must(t, err)
			var plan planner
			switch s := store.(type) {
			case *SQLite:
				plan = planSQLite(s)
			case *Mongo:
				plan = planMongo(s)
			}
			check := func(name string, q Query) {
				if costly, whole := plan(t, q); costly != nil {
					t.Errorf("%s: %q in the plan\n%s", name, costly, whole)
				}
			}
			for _, text := range queries {
				values, err := url.ParseQuery(text)
				must(t, err)
				q := Query{Limit: 50}
				q.Where, q.Order, err = parseFilter(values)
				must(t, err)
				check(text, q)
				q.Limit = 3
				page, err := store.Find(t.Context(), q)
				must(t, err)
				if !page.More {
					continue
				}
				q.Limit = 50
				q.After = page.After
				check(text+", the next page", q)
				q.Order = q.Order.Reversed()
				check(text+", the page before", q)
			}
			// And the test can fail.
			q := Query{Limit: 50}
			q.Order, err = query.ParseOrder(filterFields, "title")
			must(t, err)
			if costly, whole := plan(t, q); costly == nil {
				t.Errorf("an order by title costs nothing: %s", whole)
			}
		})
	}
}
