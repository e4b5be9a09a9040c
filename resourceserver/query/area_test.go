package query

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/bson"
	"pgregory.net/rapid"
)

var places = Fields{
	"_id":     {Name: "_id", Column: "id", Path: "_id"},
	"x_coord": {Name: "x_coord", Kind: Float, Column: "x_coord", Path: "x_coord"},
	"y_coord": {Name: "y_coord", Kind: Float, Column: "y_coord", Path: "y_coord"},
}

func placeAt(x, y float64) func(*Field) any {
	return func(f *Field) any {
		switch f.Name {
		case "x_coord":
			return x
		case "y_coord":
			return y
		}
		return "id"
	}
}

const square = "[[0,0],[10,0],[10,10],[0,10],[0,0]]"

func polygonOf(rings ...string) string {
	return `{"type":"Polygon","coordinates":[` + strings.Join(rings, ",") + `]}`
}

func TestWithin(t *testing.T) {
	holed := polygonOf(square, "[[4,4],[6,4],[6,6],[4,6],[4,4]]")
	north := polygonOf("[[-180,80],[180,80],[180,90],[-180,90],[-180,80]]")
	split := `{"type":"MultiPolygon","coordinates":[[[[170,0],[180,0],[180,10],[170,10],[170,0]]],[[[-180,0],[-170,0],[-170,10],[-180,10],[-180,0]]]]}`
	for _, tt := range []struct {
		name, area string
		x, y       float64
		want       bool
	}{
		{"inside", polygonOf(square), 5, 5, true},
		{"on an edge", polygonOf(square), 10, 3, true},
		{"on the lower edge", polygonOf(square), 3, 0, true},
		{"on a vertex", polygonOf(square), 10, 10, true},
		{"beside an edge", polygonOf(square), math.Nextafter(10, 11), 3, false},
		{"at the height of a vertex", polygonOf("[[0,0],[5,5],[10,0],[5,-5],[0,0]]"), -1, 0, false},
		{"between vertices", polygonOf("[[0,0],[5,5],[10,0],[5,-5],[0,0]]"), 5, 0, true},
		{"on a slant", polygonOf("[[0,0],[5,5],[10,0],[5,-5],[0,0]]"), 2.5, 2.5, true},
		{"straight along the parallel", polygonOf("[[-80,40],[80,40],[80,50],[-80,50],[-80,40]]"), 0, 40.0001, true},
		{"above the parallel, where a great circle would be", polygonOf("[[-80,40],[80,40],[80,50],[-80,50],[-80,40]]"), 0, 51, false},
		{"in the hole", holed, 5, 5, false},
		{"on the hole's border", holed, 4, 5, true},
		{"beside the hole", holed, 3, 5, true},
		{"the pole, whatever its longitude", north, 12.5, 90, true},
		{"near the pole", north, 12.5, 85, true},
		{"the other pole", north, 12.5, -90, false},
		{"the meridian 180", split, 180, 5, true},
		{"the meridian -180", split, -180, 5, true},
		{"west of it", split, 175, 5, true},
		{"on the other side of the world", split, 0, 5, false},
		{"-180 of a polygon that ends at 180", polygonOf("[[170,0],[180,0],[180,10],[170,10],[170,0]]"), -180, 5, true},
		{"a position of three numbers", polygonOf("[[0,0,7],[10,0,7],[10,10,7],[0,0,7]]"), 9, 1, true},
		{"a feature", `{"type":"Feature","properties":{},"geometry":` + polygonOf(square) + `}`, 5, 5, true},
		{"a hole that touches a vertex", polygonOf(square, "[[0,0],[2,1],[1,2],[0,0]]"), 1, 1, false},
		{"a vertex twice", polygonOf("[[0,0],[10,0],[10,0],[10,10],[0,10],[0,0]]"), 5, 5, true},
	} {
		n, err := ParseWithin("within", tt.area, places["x_coord"], places["y_coord"])
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := n.Match(placeAt(tt.x, tt.y)); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if got := EncodedHas(n.Value.(*Area).encode(), tt.x, tt.y); got != tt.want {
			t.Errorf("%s, encoded: %v, want %v", tt.name, got, tt.want)
		}
		if coarse := n.Value.(*Area).around(); tt.want && !coarse.Match(placeAt(tt.x, tt.y)) {
			t.Errorf("%s: the box leaves it out", tt.name)
		}
	}
}

func TestWithinRefused(t *testing.T) {
	circle := func(n int) string {
		var all []string
		for i := range n {
			sin, cos := math.Sincos(2 * math.Pi * float64(i) / float64(n))
			all = append(all, fmt.Sprintf("[%.4f,%.4f]", cos, sin))
		}
		return "[" + strings.Join(append(all, all[0]), ",") + "]"
	}
	for _, tt := range []struct{ name, area, want string }{
		{"no JSON", "POLYGON((0 0,1 0,1 1,0 0))", "must be a JSON object"},
		{"a list", "[[0,0],[1,0],[1,1],[0,0]]", "must be a JSON object"},
		{"a point", `{"type":"Point","coordinates":[0,0]}`, `must have the type "Polygon" or "MultiPolygon"`},
		{"no type", `{"coordinates":[` + square + `]}`, `must have the type "Polygon" or "MultiPolygon"`},
		{"no coordinates", `{"type":"Polygon"}`, "must have coordinates"},
		{"empty", `{"type":"Polygon","coordinates":[]}`, "must have coordinates"},
		{"an empty polygon", `{"type":"MultiPolygon","coordinates":[[]]}`, "a polygon 1 that must have coordinates"},
		{"a member twice", `{"type":"Polygon","type":"Polygon","coordinates":[` + square + `]}`, "each member once"},
		{"NaN", polygonOf("[[NaN,0],[10,0],[10,10],[NaN,0]]"), "numbers that are finite"},
		{"too large", polygonOf("[[1e999,0],[10,0],[10,10],[1e999,0]]"), "numbers that are finite"},
		{"off the globe", polygonOf("[[0,0],[10,0],[10,91],[0,0]]"), "position 3 with a longitude beyond 180 or a latitude beyond 90"},
		{"text", polygonOf(`[[0,0],["10",0],[10,10],[0,0]]`), "position 2 that isn't two numbers"},
		{"null", polygonOf(`[[0,0],[null,0],[10,10],[0,0]]`), "position 2 that isn't two numbers"},
		{"one number", polygonOf(`[[0,0],[10],[10,10],[0,0]]`), "position 2 that isn't two numbers"},
		{"open", polygonOf("[[0,0],[10,0],[10,10],[0,10]]"), "a ring 1 that isn't closed"},
		{"an open hole", polygonOf(square, "[[4,4],[6,4],[6,6],[4,6]]"), "a ring 2 that isn't closed"},
		{"an open ring of the second", `{"type":"MultiPolygon","coordinates":[[` + square + `],[[[20,0],[30,0],[30,10],[20,10]]]]}`, "a polygon 2 that has a ring 1 that isn't closed"},
		{"three positions", polygonOf("[[0,0],[10,0],[0,0]]"), "fewer than four positions"},
		{"a line there and back", polygonOf("[[0,0],[10,0],[10,0],[0,0]]"), "fewer than three positions that differ"},
		{"a line", polygonOf("[[0,0],[10,0],[5,0],[0,0]]"), "encloses nothing"},
		{"a bow tie", polygonOf("[[0,0],[10,10],[10,0],[0,10],[0,0]]"), "a ring 1 that crosses itself, between positions 1 and 3"},
		{"a spike", polygonOf("[[0,0],[10,0],[10,10],[20,20],[10,10],[0,10],[0,0]]"), "a ring 1 that crosses itself"},
		{"a hole that crosses", polygonOf(square, "[[5,5],[15,5],[15,6],[5,5]]"), "rings 1 and 2 that cross"},
		{"a hole outside", polygonOf(square, "[[15,15],[16,15],[16,16],[15,15]]"), "a hole, ring 2, that isn't within its ring 1"},
		{"many positions", polygonOf(circle(MaxPositions)), "500 is the limit"},
		{"100,000 positions", polygonOf(circle(100_000)), "12288 bytes is the limit"},
		{"nested", strings.Repeat("[", MaxAreaLength), "must be a JSON object"},
		{"nested inside", `{"type":"Polygon","coordinates":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, "position"},
	} {
		_, err := ParseWithin("within", tt.area, places["x_coord"], places["y_coord"])
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Parameter != "within" || e.Hint == "" || !strings.Contains(e.Reason.String(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestNear(t *testing.T) {
	const metre = 360 / (2 * math.Pi * EarthRadius) // in degrees of latitude
	for _, tt := range []struct {
		name, near string
		x, y       float64
		want       bool
	}{
		{"the middle", "-3.7,40.4,1", -3.7, 40.4, true},
		{"just within", "-3.7,40.4,100", -3.7, 40.4 + 99.999*metre, true},
		{"just beyond", "-3.7,40.4,100", -3.7, 40.4 + 100.001*metre, false},
		{"along the parallel", "-3.7,60,100", -3.7 + 199.99*metre, 60, true},
		{"beyond it", "-3.7,60,100", -3.7 + 200.01*metre, 60, false},
		{"across the antimeridian", "179.9999,10,50", -179.9999, 10, true},
		{"the other meridian", "180,10,0.1", -180, 10, true},
		{"the pole, whatever its longitude", "77,90,0.1", -120, 90, true},
		{"across the pole", "0,89.9999,50", 180, 89.9999, true},
		{"the other side of the world", "0,0,1000000", 180, 0, false},
	} {
		n, order, err := ParseNear("near", tt.near, places["x_coord"], places["y_coord"], places["_id"])
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := n.Match(placeAt(tt.x, tt.y)); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if coarse := n.Value.(*Circle).around(); tt.want && !coarse.Match(placeAt(tt.x, tt.y)) {
			t.Errorf("%s: the box leaves it out", tt.name)
		}
		if !order.ByDistance() || order.Compare(placeAt(tt.x, tt.y), placeAt(tt.x, tt.y)) != 0 {
			t.Errorf("%s: the order is %s", tt.name, order)
		}
	}
	for _, tt := range []struct{ near, want string }{
		{"", "three numbers"},
		{"1,2", "three numbers"},
		{"1,2,3,4", "three numbers"},
		{"1,2,NaN", "three numbers"},
		{"1,2,1e999", "three numbers"},
		{"0x1,2,3", "three numbers"},
		{"181,2,3", "beyond 180"},
		{"1,-91,3", "beyond 90"},
		{"1,2,0", "greater than 0"},
		{"1,2,-5", "greater than 0"},
		{"1,2,1000001", "at most 1000000 m"},
	} {
		_, _, err := ParseNear("near", tt.near, places["x_coord"], places["y_coord"], places["_id"])
		if e, ok := errors.AsType[*Error](err); !ok || e.Parameter != "near" || !strings.Contains(e.Reason.String(), tt.want) {
			t.Errorf("%q: %v, want %s", tt.near, err, tt.want)
		}
	}
}

// TestHaversine holds the distance to the angle between two vectors, and the
// polynomial to the library's sine.
func TestHaversine(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		angle := rapid.Float64Range(0, math.Pi/2).Draw(r, "angle")
		if got, want := sine(angle), math.Sin(angle); math.Abs(got-want) > 4e-16 {
			r.Fatalf("sine %v, want %v", got, want)
		}
		x, y := rapid.Float64Range(-180, 180).Draw(r, "x"), rapid.Float64Range(-90, 90).Draw(r, "y")
		cx, cy := rapid.Float64Range(-180, 180).Draw(r, "cx"), rapid.Float64Range(-90, 90).Draw(r, "cy")
		vector := func(x, y float64) [3]float64 {
			sx, wx := math.Sincos(x * radian)
			sy, wy := math.Sincos(y * radian)
			return [3]float64{wy * wx, wy * sx, sy}
		}
		a, b := vector(x, y), vector(cx, cy)
		chord := 0.0
		for i := range a {
			chord += (a[i] - b[i]) * (a[i] - b[i])
		}
		want := 2 * EarthRadius * math.Asin(min(1, math.Sqrt(chord)/2))
		if got := metresOf(Haversine(cx, cy, x, y)); math.Abs(got-want) > 1e-3+want*1e-7 {
			r.Fatalf("from %v,%v to %v,%v: %v m, want %v", cx, cy, x, y, got, want)
		}
	})
}

// TestRingsProperty: the rings of a part have each place of it once, and come
// in the order of the list.
func TestRingsProperty(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		x, y := rapid.Float64Range(-180, 180).Draw(r, "x"), rapid.Float64Range(-90, 90).Draw(r, "y")
		metres := rapid.SampledFrom([]float64{1, 30, 1000, 1e6}).Draw(r, "metres")
		where, order, err := ParseNear("near", fmt.Sprintf("%v,%v,%v", x, y, metres), places["x_coord"], places["y_coord"], places["_id"])
		if err != nil {
			r.Fatal(err)
		}
		parts := []Node{{}}
		if rapid.Bool().Draw(r, "back") {
			order = order.Reversed()
		}
		if rapid.Bool().Draw(r, "from a document") {
			parts = order.Seek([]any{haversineOf(metres * rapid.Float64Range(0, 1).Draw(r, "after")), "id"})
		}
		spread := metres / 1e5
		at := placeAt(min(180, max(-180, x+spread*rapid.Float64Range(-1, 1).Draw(r, "dx"))), min(90, max(-90, y+spread*rapid.Float64Range(-1, 1).Draw(r, "dy"))))
		want := 0
		var rings []Node
		for i := range parts {
			if where.Match(at) && parts[i].Match(at) {
				want++
			}
			some, rest := order.Rings(parts[i], &where)
			if !rest.All() {
				r.Fatalf("the rest is %+v", rest)
			}
			rings = append(rings, some...)
		}
		got := 0
		for i := range rings {
			if rings[i].Match(at) {
				got++
			}
		}
		if got != want {
			r.Fatalf("in %d of %d rings, want %d", got, len(rings), want)
		}
		if len(rings) > 16 {
			r.Fatalf("%d rings", len(rings))
		}
	})
}

// FuzzWithin: no text panics or breaks a limit, and what was refused is an
// *Error that doesn't repeat it; what wasn't prints for both stores, and its
// three meanings here agree at its own corners.
func FuzzWithin(f *testing.F) {
	for _, text := range []string{
		polygonOf(square), polygonOf(square, "[[4,4],[6,4],[6,6],[4,6],[4,4]]"),
		`{"type":"MultiPolygon","coordinates":[[` + square + `],[[[20,0],[30,0],[30,10],[20,0]]]]}`,
		`{"type":"Feature","geometry":` + polygonOf(square) + `}`, polygonOf("[[0,0],[1e999,0]]"), "[[[[", `{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1],[0,0,0,0]]]}`,
		polygonOf("[[-180,80],[180,80],[180,90],[-180,90],[-180,80]]"),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseWithin("within", text, places["x_coord"], places["y_coord"])
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		sql, args := n.AppendSQL(nil, nil)
		if strings.Count(string(sql), "?") != len(args) {
			t.Errorf("%d values for %s", len(args), sql)
		}
		printed, err := bson.Marshal(n.Mongo())
		if err != nil || len(printed) > 4<<20 {
			t.Errorf("%d bytes for MongoDB, %v", len(printed), err)
		}
		a := n.Value.(*Area)
		around := a.around()
		for i := range a.polygons {
			for _, e := range a.polygons[i].edges {
				if !a.Has(e.ax, e.ay) || !EncodedHas(a.encode(), e.bx, e.by) || !around.Match(placeAt(e.ax, e.ay)) {
					t.Errorf("a vertex, %v,%v, isn't covered", e.ax, e.ay)
				}
			}
		}
	})
}

// TestWithinIsShort: the longest comb with teeth over the whole height stays
// far from the 16 MiB that MongoDB takes.
func TestWithinIsShort(t *testing.T) {
	comb := []string{"[-180,-89]"}
	for i := range MaxPositions - 4 {
		comb = append(comb, fmt.Sprintf("[%.2f,%.1f]", -180+float64(i)*0.7, []float64{89, -88}[i%2]-float64(i%7)*0.1))
	}
	comb = append(comb, "[180,89]", "[180,-89]", "[-180,-89]")
	n, err := ParseWithin("within", polygonOf("["+strings.Join(comb, ",")+"]"), places["x_coord"], places["y_coord"])
	if err != nil {
		t.Fatal(err)
	}
	printed, err := bson.Marshal(n.Mongo())
	if err != nil || len(printed) > 4<<20 {
		t.Errorf("%d bytes, %v", len(printed), err)
	}
	t.Logf("%d bytes", len(printed))
}
