package query

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/go-json-experiment/json"
	"go.mongodb.org/mongo-driver/bson"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// Limits on the areas of a within.
const (
	MaxAreaLength = 12 << 10 // bytes of the text
	MaxPositions  = 500      // of all rings together
)

// Area is what one or several polygons cover, borders and vertices included.
// Edges are straight in degrees, as RFC 7946 §3.1.1 has them: from
// [-3.8,40.4] to [-3.6,40.4] an edge follows the parallel, and no great
// circle. A polygon's area is what an odd number of its rings goes around, so
// holes are not part of it, but their borders are.
//
// The meridians 180 and -180 are one, and a pole is one point whatever
// longitude it was given.
type Area struct {
	x, y     *Field
	polygons []polygon
}

type polygon struct {
	edges                    []edge
	west, south, east, north float64
}

// edge goes up: ay <= by; a level one goes east.
type edge struct{ ax, ay, bx, by float64 }

// side tells where a point at the height of an edge is: 0 is on the line,
// more than 0 west of it. All engines work it out by these steps.
func (e *edge) side(x, y float64) float64 {
	return float64(float64(e.bx-e.ax)*float64(y-e.ay)) - float64(float64(e.by-e.ay)*float64(x-e.ax))
}

// has reports whether the polygon covers a point.
func (p *polygon) has(x, y float64) bool {
	if math.Abs(y) == 90 {
		return y == p.north || y == p.south
	}
	return p.around(x, y) || math.Abs(x) == 180 && p.around(-x, y)
}

func (p *polygon) around(x, y float64) bool {
	odd := false
	for i := range p.edges {
		e := &p.edges[i]
		if y < e.ay || y > e.by {
			continue
		}
		if e.ay == e.by {
			if x >= e.ax && x <= e.bx {
				return true
			}
			continue
		}
		switch s := e.side(x, y); {
		case s == 0:
			return true
		case s > 0 && y < e.by:
			odd = !odd
		}
	}
	return odd
}

// Has reports whether the area covers a point.
func (a *Area) Has(x, y float64) bool {
	for i := range a.polygons {
		if a.polygons[i].has(x, y) {
			return true
		}
	}
	return false
}

func (a *Area) has(value func(*Field) any) bool {
	x, isX := value(a.x).(float64)
	y, isY := value(a.y).(float64)
	return isX && isY && a.Has(x, y)
}

// ParseWithin reads a Polygon or a MultiPolygon of GeoJSON (RFC 7946), or a
// Feature with one, as a condition on a longitude and a latitude.
func ParseWithin(parameter, text string, x, y *Field) (Node, error) {
	a, reason := parseArea(text)
	if reason != "" {
		return Node{}, &Error{parameter, reason, `write a geometry of GeoJSON, as in {"type":"Polygon","coordinates":[[[-3.8,40.3],[-3.6,40.3],[-3.6,40.5],[-3.8,40.3]]]}: positions are longitude and latitude, the last of a ring is its first, and holes come behind the outer ring`}
	}
	a.x, a.y = x, y
	return Node{Op: Inside, Field: x, Value: a}, nil
}

// parseArea reads an area. reason is "" or what is wrong with it, as that of
// the functions below.
func parseArea(text string) (a *Area, reason i18n.Text) {
	if len(text) > MaxAreaLength {
		return nil, i18n.Textf("is too long: %d bytes is the limit", MaxAreaLength)
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, "must be a JSON object with each member once, and numbers that are finite"
	}
	object, ok := v.(map[string]any)
	if ok && object["type"] == "Feature" {
		object, ok = object["geometry"].(map[string]any)
	}
	if !ok {
		return nil, "must be a JSON object"
	}
	several := object["type"] == "MultiPolygon"
	if !several && object["type"] != "Polygon" {
		return nil, `must have the type "Polygon" or "MultiPolygon"`
	}
	all, ok := object["coordinates"].([]any)
	if !ok || len(all) == 0 {
		return nil, "must have coordinates, a list of rings"
	}
	if !several {
		all = []any{all}
	}
	a = &Area{polygons: make([]polygon, len(all))}
	positions := 0
	for i, one := range all {
		if reason := a.polygons[i].parse(one, &positions); reason != "" {
			if several {
				reason = i18n.Textf("has a polygon %d that %s", i+1, reason)
			}
			return nil, reason
		}
	}
	return a, ""
}

// parse reads the rings of a polygon.
func (p *polygon) parse(v any, positions *int) i18n.Text {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return "must have coordinates, a list of rings"
	}
	rings := make([][]point, len(list))
	for i, one := range list {
		var reason i18n.Text
		if rings[i], reason = parseRing(one, positions); reason != "" {
			return i18n.Textf("has a ring %d that %s", i+1, reason)
		}
	}
	return p.build(rings)
}

type point struct{ x, y float64 }

func parseRing(v any, positions *int) (ring []point, reason i18n.Text) {
	list, ok := v.([]any)
	if !ok {
		return nil, "isn't a list of positions"
	}
	if *positions += len(list); *positions > MaxPositions {
		return nil, i18n.Textf("makes too many positions: %d is the limit", MaxPositions)
	}
	for i, one := range list {
		position, ok := one.([]any)
		if !ok || len(position) < 2 || len(position) > 3 {
			return nil, i18n.Textf("has a position %d that isn't two numbers", i+1)
		}
		var at [3]float64
		for j, one := range position {
			if at[j], ok = one.(float64); !ok {
				return nil, i18n.Textf("has a position %d that isn't two numbers", i+1)
			}
		}
		if math.Abs(at[0]) > 180 || math.Abs(at[1]) > 90 {
			return nil, i18n.Textf("has a position %d with a longitude beyond 180 or a latitude beyond 90", i+1)
		}
		ring = append(ring, point{at[0] + 0, at[1] + 0}) // no -0
	}
	switch {
	case len(ring) < 4:
		return nil, "has fewer than four positions"
	case ring[0] != ring[len(ring)-1]:
		return nil, "isn't closed: its last position must be its first"
	}
	if ring = slices.Compact(ring); len(ring) < 4 {
		return nil, "has fewer than three positions that differ"
	}
	return ring, ""
}

// build makes a polygon of rings, of which the first is the outer one.
func (p *polygon) build(rings [][]point) i18n.Text {
	p.west, p.south, p.east, p.north = 180, 90, -180, -90
	var path [][2]point // the edges as they go
	var ringOf, indexOf []int
	for i, ring := range rings {
		for j := range ring[1:] {
			a, b := ring[j], ring[j+1]
			path = append(path, [2]point{a, b})
			ringOf, indexOf = append(ringOf, i), append(indexOf, j)
			if a.y > b.y || a.y == b.y && a.x > b.x {
				a, b = b, a
			}
			p.edges = append(p.edges, edge{a.x, a.y, b.x, b.y})
			p.west, p.east = min(p.west, a.x, b.x), max(p.east, a.x, b.x)
			p.south, p.north = min(p.south, a.y), max(p.north, b.y)
		}
	}
	if p.west == p.east || p.south == p.north {
		return "has a ring 1 that encloses nothing"
	}
	for i := range path {
		for j := range i {
			if !cross(path[i], path[j]) {
				continue
			}
			if ringOf[i] == ringOf[j] {
				return i18n.Textf("has a ring %d that crosses itself, between positions %d and %d", ringOf[i]+1, indexOf[j]+1, indexOf[i]+1)
			}
			return i18n.Textf("has rings %d and %d that cross", ringOf[j]+1, ringOf[i]+1)
		}
	}
	outer := polygon{edges: p.edges[:len(rings[0])-1], west: p.west, south: p.south, east: p.east, north: p.north}
	for i, hole := range rings[1:] {
		for _, at := range hole {
			if !outer.around(at.x, at.y) {
				return i18n.Textf("has a hole, ring %d, that isn't within its ring 1", i+2)
			}
		}
	}
	return ""
}

// cross reports whether two edges meet in more than a point that is an end of
// one of them.
func cross(p, q [2]point) bool {
	if min(p[0].x, p[1].x) > max(q[0].x, q[1].x) || min(q[0].x, q[1].x) > max(p[0].x, p[1].x) ||
		min(p[0].y, p[1].y) > max(q[0].y, q[1].y) || min(q[0].y, q[1].y) > max(p[0].y, p[1].y) {
		return false
	}
	turn := func(a, b, c point) int {
		v := (b.x-a.x)*(c.y-a.y) - (b.y-a.y)*(c.x-a.x)
		switch {
		case v > 0:
			return 1
		case v < 0:
			return -1
		}
		return 0
	}
	a, b := turn(p[0], p[1], q[0]), turn(p[0], p[1], q[1])
	c, d := turn(q[0], q[1], p[0]), turn(q[0], q[1], p[1])
	if a == 0 && b == 0 { // on one line: they share more than a point if they overlap in the longer direction
		along := func(v point) float64 { return v.x }
		if math.Abs(p[1].y-p[0].y) > math.Abs(p[1].x-p[0].x) {
			along = func(v point) float64 { return v.y }
		}
		return max(min(along(p[0]), along(p[1])), min(along(q[0]), along(q[1]))) <
			min(max(along(p[0]), along(p[1])), max(along(q[0]), along(q[1])))
	}
	return a*b < 0 && c*d < 0
}

// outlines are the polygons, for the boxes around them; of meither, one around
// all.
func (a *Area) outlines() []polygon {
	const most = 8
	if len(a.polygons) <= most {
		return a.polygons
	}
	whole := a.polygons[0]
	for _, p := range a.polygons {
		whole.west, whole.south = min(whole.west, p.west), min(whole.south, p.south)
		whole.east, whole.north = max(whole.east, p.east), max(whole.north, p.north)
	}
	return []polygon{whole}
}

// around is the boxes around the polygons as a condition, for indexes.
func (a *Area) around() Node {
	either := Node{Op: Or}
	for _, p := range a.outlines() {
		either.Nodes = append(either.Nodes, box(a.x, a.y, p.west, p.south, p.east, p.north))
	}
	if len(either.Nodes) == 1 {
		return either.Nodes[0]
	}
	return either
}

// encode is the area for the function inmuebles_inside(area, x, y): for each
// polygon, the number of its edges, its box, and each edge's ends.
func (a *Area) encode() []byte {
	var b []byte
	add := func(all ...float64) {
		for _, v := range all {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		}
	}
	for i := range a.polygons {
		p := &a.polygons[i]
		add(float64(len(p.edges)), p.west, p.south, p.east, p.north)
		for _, e := range p.edges {
			add(e.ax, e.ay, e.bx, e.by)
		}
	}
	return b
}

// EncodedHas is [Area.Has] of an area as AppendSQL hands it to SQLite.
func EncodedHas(area []byte, x, y float64) bool {
	next := func() float64 {
		v := math.Float64frombits(binary.LittleEndian.Uint64(area))
		area = area[8:]
		return v
	}
	const polygonBytes, edgeBytes = 5 * 8, 4 * 8
	var edges []edge
	for len(area) >= polygonBytes {
		n := int(next())
		p := polygon{west: next(), south: next(), east: next(), north: next()}
		if n < 0 || n*edgeBytes > len(area) {
			return false
		}
		if y < p.south || y > p.north || math.Abs(x) != 180 && math.Abs(y) != 90 && (x < p.west || x > p.east) {
			area = area[n*edgeBytes:]
			continue
		}
		edges = edges[:0]
		for range n {
			edges = append(edges, edge{next(), next(), next(), next()})
		}
		p.edges = edges
		if p.has(x, y) {
			return true
		}
	}
	return false
}

// appendSQL appends the condition.
func (a *Area) appendSQL(b []byte, args []any) ([]byte, []any) {
	b = append(append(b, "inmuebles_inside(?, "...), a.x.Column...)
	b = append(append(append(b, ", "...), a.y.Column...), ')')
	return b, append(args, a.encode())
}

// mongo is the condition: the box, which an index serves, and the area.
func (a *Area) mongo() bson.D {
	around := a.around()
	some := bson.A{}
	for i := range a.polygons {
		some = append(some, a.polygons[i].mongo())
	}
	return bson.D{{Key: "$and", Value: bson.A{around.mongo(), bson.D{{Key: "$expr", Value: let(
		bson.D{{Key: "x", Value: toDouble(a.x)}, {Key: "y", Value: toDouble(a.y)}}, bson.D{{Key: "$or", Value: some}},
	)}}}}}
}

// onEdge is what a point on an edge adds to the edges that are counted: more
// than there are.
const onEdge = 1 << 20

// mongo is the polygon as an expression on the variables x and y.
func (p *polygon) mongo() any {
	t := newSlabs(p.edges)
	around := func() any {
		return let(bson.D{{Key: "n", Value: t.mongo(0, len(t.heights)*2-1)}}, bson.D{{Key: "$or", Value: bson.A{
			expr("$gte", "$$n", onEdge), expr("$eq", expr("$mod", "$$n", 2), 1),
		}}})
	}
	conditions := bson.A{bson.D{{Key: "$and", Value: bson.A{
		expr("$gte", "$$y", p.south), expr("$lte", "$$y", p.north), around(),
	}}}}
	for _, pole := range []float64{-90, 90} {
		if p.south == pole || p.north == pole {
			conditions = append(conditions, expr("$eq", "$$y", pole))
		}
	}
	if p.west == -180 || p.east == 180 {
		conditions = append(conditions, bson.D{{Key: "$and", Value: bson.A{
			expr("$eq", bson.D{{Key: "$abs", Value: "$$x"}}, 180.0), expr("$gte", "$$y", p.south), expr("$lte", "$$y", p.north),
			let(bson.D{{Key: "x", Value: expr("$multiply", "$$x", -1.0)}}, around()),
		}}})
	}
	return bson.D{{Key: "$or", Value: conditions}}
}

// slabs is a segment tree on the heights of vertices and the gaps between
// them: place 2i is the i-th height, 2i+1 the gap above it. An edge stands in
// the fewest nodes that have exactly its places, so that it is stored at
// most 2 log n times, and what a point has at its height is on the way from
// the root to its place.
type slabs struct {
	heights []float64
	nodes   map[[2]int][]any // by the first place and the one behind the last
}

func newSlabs(edges []edge) *slabs {
	t := &slabs{nodes: map[[2]int][]any{}}
	for _, e := range edges {
		t.heights = append(t.heights, e.ay, e.by)
	}
	slices.Sort(t.heights)
	t.heights = slices.Compact(t.heights)
	end := len(t.heights)*2 - 1
	place := func(y float64) int {
		i, _ := slices.BinarySearch(t.heights, y)
		return 2 * i
	}
	for i := range edges {
		e := &edges[i]
		from, to := place(e.ay), place(e.by)
		if from == to {
			t.put(0, end, from, to+1, bson.D{{Key: "$cond", Value: bson.A{
				bson.D{{Key: "$and", Value: bson.A{expr("$gte", "$$x", e.ax), expr("$lte", "$$x", e.bx)}}}, onEdge, 0,
			}}})
			continue
		}
		side := expr("$subtract",
			expr("$multiply", e.bx-e.ax, expr("$subtract", "$$y", e.ay)),
			expr("$multiply", e.by-e.ay, expr("$subtract", "$$x", e.ax)))
		t.put(0, end, from, to, let(bson.D{{Key: "s", Value: side}}, bson.D{{Key: "$cond", Value: bson.A{
			expr("$gt", "$$s", 0.0), 1, bson.D{{Key: "$cond", Value: bson.A{expr("$eq", "$$s", 0.0), onEdge, 0}}},
		}}}))
		t.put(0, end, to, to+1, bson.D{{Key: "$cond", Value: bson.A{expr("$eq", side, 0.0), onEdge, 0}}})
	}
	return t
}

// put stores an expression for the places from..to in the nodes of the tree
// that has first..end.
func (t *slabs) put(first, end, from, to int, expression any) {
	switch middle := (first + end) / 2; {
	case to <= first || end <= from:
	case from <= first && end <= to:
		t.nodes[[2]int{first, end}] = append(t.nodes[[2]int{first, end}], expression)
	default:
		t.put(first, middle, from, to, expression)
		t.put(middle, end, from, to, expression)
	}
}

// mongo is the sum of what there is on the way to the place of y.
func (t *slabs) mongo(first, end int) any {
	sum := bson.A(slices.Clone(t.nodes[[2]int{first, end}]))
	if end-first > 1 {
		middle := (first + end) / 2
		below := expr("$lt", "$$y", t.heights[middle/2]) // the places before middle, a height
		if middle%2 == 1 {                               // a gap
			below = expr("$lte", "$$y", t.heights[middle/2])
		}
		sum = append(sum, bson.D{{Key: "$cond", Value: bson.A{below, t.mongo(first, middle), t.mongo(middle, end)}}})
	}
	switch len(sum) {
	case 0:
		return 0
	case 1:
		return sum[0]
	}
	return bson.D{{Key: "$add", Value: sum}}
}
