package query

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/bson"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// A distance is one on a sphere of EarthRadius, along a great circle, by the
// haversine formula. What is compared, sorted by and kept in a cursor is the
// haversine itself, sin²(d/2R), which grows with the distance. All engines
// work it out by the same steps of IEEE 754 (sums, products, a polynomial for
// the sine) and so to the same bits: a library's sine differs from another's
// in the last one, which is enough for two documents to change places.

// EarthRadius is the mean radius of the Earth in metres (IUGG), (2a+b)/3 of
// WGS 84. Distances are within 0.6 % of those on the ellipsoid.
const EarthRadius = 6_371_008.8

// MaxMetres bounds the distance of a near.
const MaxMetres = 1_000_000

// Circle is what is within a distance of a place, the border included; or a
// ring of it.
type Circle struct {
	x, y     *Field  // longitude and latitude of a document, in degrees
	cx, cy   float64 // the middle
	cosine   float64 // of cy
	distance *Field  // the distance, to order by

	// The haversines that there may be: greater than over, and at most upTo.
	// None is less than 0.
	over, upTo float64
}

// noLess is less than every haversine.
const noLess = -1

const (
	radian     = math.Pi / 180
	halfRadian = math.Pi / 360
)

// sines are the coefficients of the sine's series in x², from the second on:
// up to a right angle, what is left out is less than 1e-17.
var sines = [...]float64{
	-1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000,
	1.0 / 355687428096000, -1.0 / 121645100408832000, 1.0 / 51090942171709440000,
}

// sine is the sine of an angle from 0 to a right one. Each conversion keeps
// the compiler from making one rounding of two, as it may on arm64.
func sine(angle float64) float64 {
	z := float64(angle * angle)
	sum := 0.0
	for i := len(sines) - 1; i >= 0; i-- {
		sum = float64(float64(sum+sines[i]) * z)
	}
	return float64(float64(sum+1) * angle)
}

// cosineOf is the cosine of a latitude.
func cosineOf(y float64) float64 { return sine(float64(float64(90-math.Abs(y)) * radian)) }

// Haversine is that of the angle between two places, given by longitude and
// latitude in degrees.
func Haversine(cx, cy, x, y float64) float64 { return haversine(cx, cy, cosineOf(cy), x, y) }

func haversine(cx, cy, cosine, x, y float64) float64 {
	dx, dy := math.Abs(float64(x-cx)), math.Abs(float64(y-cy))
	if dx > 180 {
		dx = 360 - dx
	}
	high, wide := sine(float64(dy*halfRadian)), sine(float64(dx*halfRadian))
	return float64(high*high) + float64(float64(cosine*cosineOf(y))*float64(wide*wide))
}

// haversineOf is the haversine of a distance in metres.
func haversineOf(metres float64) float64 {
	s := math.Sin(metres / (2 * EarthRadius))
	return s * s
}

// metresOf is the other way round.
func metresOf(haversine float64) float64 {
	return 2 * EarthRadius * math.Asin(math.Sqrt(min(max(haversine, 0), 1)))
}

// ParseNear reads x,y,metres as a condition on a longitude and a latitude, and
// the order by that distance, of which what is left open by is decided.
func ParseNear(parameter, text string, x, y, by *Field) (Node, Order, error) {
	fail := func(reason i18n.Text) (Node, Order, error) {
		return Node{}, nil, &Error{parameter, reason, "write longitude,latitude,metres, as in -3.7038,40.4168,500"}
	}
	parts := strings.Split(text, ",")
	if len(parts) != 3 {
		return fail("must be three numbers with a comma between")
	}
	var at [3]float64
	for i, part := range parts {
		v, err := strconv.ParseFloat(part, 64)
		if err != nil || strings.Trim(part, "0123456789+-.eE") != "" {
			return fail("must be three numbers with a comma between")
		}
		at[i] = v + 0 // no -0
	}
	switch {
	case math.Abs(at[0]) > 180 || math.Abs(at[1]) > 90:
		return fail("has a longitude beyond 180 or a latitude beyond 90")
	case at[2] <= 0 || at[2] > MaxMetres:
		return fail(i18n.Textf("must be of a distance greater than 0 and of at most %d m", MaxMetres))
	}
	c := &Circle{x: x, y: y, cx: at[0], cy: at[1], over: noLess, upTo: haversineOf(at[2])}
	c.cosine = cosineOf(c.cy)
	c.distance = &Field{
		Name: fmt.Sprintf("distance(%v,%v)", c.cx, c.cy), Kind: Float, from: c, Column: DistancePath, Path: DistancePath,
	}
	return c.node(), Order{{Field: c.distance}, {Field: by}}, nil
}

// DistancePath is what stores call the haversine that they worked out: a
// column, and an element of a document that is read.
const DistancePath = "_distance"

func (c *Circle) node() Node { return Node{Op: Near, Field: c.x, Value: c} }

// ring is the part of the circle that is further than over and no further
// than upTo.
func (c *Circle) ring(over, upTo float64) *Circle {
	r := *c
	r.over, r.upTo = max(c.over, over), min(c.upTo, upTo)
	return &r
}

// on is the condition that the distance stands in a relation to a value.
func (c *Circle) on(op Op, v float64) Node {
	whole := *c
	whole.over, whole.upTo = noLess, 1
	switch op {
	case Eq:
		return whole.ring(math.Nextafter(v, -2), v).node()
	case Gt:
		return whole.ring(v, 1).node()
	default: // Lt
		return whole.ring(noLess, math.Nextafter(v, -2)).node()
	}
}

// haversine is that of a document.
func (c *Circle) haversine(value func(*Field) any) float64 {
	x, _ := value(c.x).(float64)
	y, _ := value(c.y).(float64)
	return haversine(c.cx, c.cy, c.cosine, x, y)
}

func (c *Circle) has(value func(*Field) any) bool {
	h := c.haversine(value)
	return h > c.over && h <= c.upTo
}

// corners are the box around the circle, a little wider, so that no rounding
// leaves out what the exact condition takes: it is for indexes.
func (c *Circle) corners() (west, south, east, north float64) {
	const more, least = 1 + 1e-9, 1e-9 // of the size; degrees
	angle := 2 * math.Asin(math.Sqrt(min(c.upTo, 1)))
	degrees := angle/radian*more + least
	south, north = max(c.cy-degrees, -90), min(c.cy+degrees, 90)
	if south == -90 || north == 90 {
		return -180, south, 180, north
	}
	half := math.Asin(min(1, math.Sin(angle)/math.Cos(c.cy*radian)))/radian*more + least
	if half >= 180 {
		return -180, south, 180, north
	}
	if west = c.cx - half; west < -180 {
		west += 360
	}
	if east = c.cx + half; east > 180 {
		east -= 360
	}
	return west, south, east, north
}

// around is the box as a condition.
func (c *Circle) around() Node {
	west, south, east, north := c.corners()
	return box(c.x, c.y, west, south, east, north)
}

// What is near is found without a look at all that the circle has: the first
// ring is of firstRing metres, and each further one makes what was looked at
// twice as wide, from farOff metres on four times.
const (
	firstRing = 20
	farOff    = 2500
)

func nextRing(looked float64) float64 {
	if looked < farOff {
		return looked
	}
	return 3 * looked
}

// ByDistance reports whether the order is that of [ParseNear].
func (o Order) ByDistance() bool { return len(o) > 0 && o[0].Field.from != nil }

// Rings splits a part of a list that is ordered by distance, one of [Seek] or
// the whole, into parts of which each is looked for alone: a ring further and further away, or closer
// and closer for a list that is read backwards. Each is wider than the one
// before, so there are few, and together they aren't much more than what is
// needed. rest is where without the circle, which a ring is a part of.
func (o Order) Rings(part Node, where *Node) (parts []Node, rest Node) {
	c := o[0].Field.from
	rest = where.without(c)
	over, upTo := c.over, c.upTo
	var further []Node // by the _id, where the distance is the same
	for _, n := range slices.Concat(part.Nodes, []Node{part}) {
		if ring, ok := n.Value.(*Circle); ok && n.Op == Near {
			over, upTo = max(over, ring.over), min(upTo, ring.upTo)
		} else if n.Op != And {
			further = append(further, n)
		}
	}
	if upTo <= over {
		return []Node{{Op: Or}}, rest
	}
	if further != nil {
		return []Node{both(append(further, c.ring(over, upTo).node())...)}, rest
	}
	from, to := metresOf(over), metresOf(upTo)
	if o[0].Desc {
		begin := to
		for width := max(firstRing, to/50); to-width > from; width = nextRing(begin - to) {
			h := haversineOf(to - width)
			parts = append(parts, c.ring(h, upTo).node())
			to, upTo = to-width, h
		}
		return append(parts, c.ring(over, upTo).node()), rest
	}
	begin := from
	for width := max(firstRing, from/50); from+width < to; width = nextRing(from - begin) {
		h := haversineOf(from + width)
		parts = append(parts, c.ring(over, h).node())
		from, over = from+width, h
	}
	return append(parts, c.ring(over, upTo).node()), rest
}

// without is the tree without the condition of a circle, which a ring of it
// has, too.
func (n *Node) without(c *Circle) Node {
	if n.Op == Near && n.Value == any(c) {
		return Node{}
	}
	if n.Op != And {
		return *n
	}
	rest := Node{Op: And}
	for i := range n.Nodes {
		if one := n.Nodes[i].without(c); !one.All() {
			rest.Nodes = append(rest.Nodes, one)
		}
	}
	return rest
}

// appendSQL appends the condition. inmuebles_distance(x, y, cx, cy) is the
// [Haversine].
func (c *Circle) appendSQL(b []byte, args []any) ([]byte, []any) {
	b = append(b, '(')
	if c.over >= 0 {
		b, args = c.appendDistance(b, args)
		b, args = append(b, " > ? AND "...), append(args, c.over)
	}
	b, args = c.appendDistance(b, args)
	return append(b, " <= ?)"...), append(args, c.upTo)
}

func (c *Circle) appendDistance(b []byte, args []any) ([]byte, []any) {
	b = append(append(append(append(b, "inmuebles_distance("...), c.x.Column...), ", "...), c.y.Column...)
	return append(b, ", ?, ?)"...), append(args, c.cx, c.cy)
}

// mongo is the condition: the box, which an index serves, and the distance.
func (c *Circle) mongo() bson.D {
	around := c.around()
	h := any("$$h")
	conditions := bson.A{expr("$gte", h, 0.0), expr("$lte", h, c.upTo)} // null is less than 0
	if c.over >= 0 {
		conditions = append(conditions, expr("$gt", h, c.over))
	}
	return bson.D{{Key: "$and", Value: bson.A{around.mongo(), bson.D{{Key: "$expr", Value: let(
		bson.D{{Key: "h", Value: c.mongoDistance()}}, bson.D{{Key: "$and", Value: conditions}},
	)}}}}}
}

// mongoDistance is the haversine as an expression. It is null where a
// coordinate is no number.
func (c *Circle) mongoDistance() any {
	sine := func(variable string) any {
		angle, square := "$$"+variable, expr("$multiply", "$$"+variable, "$$"+variable)
		var sum any = 0.0
		for i := len(sines) - 1; i >= 0; i-- {
			sum = expr("$multiply", expr("$add", sum, sines[i]), "$$z")
		}
		return let(bson.D{{Key: "z", Value: square}}, expr("$multiply", expr("$add", sum, 1.0), angle))
	}
	difference := func(variable string, v float64) any {
		return bson.D{{Key: "$abs", Value: expr("$subtract", variable, v)}}
	}
	return let(bson.D{{Key: "x", Value: toDouble(c.x)}, {Key: "y", Value: toDouble(c.y)}},
		let(bson.D{{Key: "dx", Value: difference("$$x", c.cx)}},
			let(bson.D{
				{Key: "u", Value: expr("$multiply", difference("$$y", c.cy), halfRadian)},
				{Key: "v", Value: expr("$multiply", bson.D{{Key: "$cond", Value: bson.A{
					expr("$gt", "$$dx", 180.0), expr("$subtract", 360.0, "$$dx"), "$$dx",
				}}}, halfRadian)},
				{Key: "w", Value: expr("$multiply", expr("$subtract", 90.0, bson.D{{Key: "$abs", Value: "$$y"}}), radian)},
			}, let(bson.D{
				{Key: "high", Value: sine("u")}, {Key: "wide", Value: sine("v")}, {Key: "other", Value: expr("$multiply", c.cosine, sine("w"))},
			}, let(bson.D{{Key: "square", Value: expr("$multiply", "$$wide", "$$wide")}}, // a product of products would be put in another order
				expr("$add", expr("$multiply", "$$high", "$$high"), expr("$multiply", "$$other", "$$square")))))))
}

// expr is an expression of an operator on two operands. Of MongoDB's sums and
// products, only those of two are surely rounded once.
func expr(operator string, a, b any) bson.D {
	return bson.D{{Key: operator, Value: bson.A{a, b}}}
}

func let(variables bson.D, in any) bson.D {
	return bson.D{{Key: "$let", Value: bson.D{{Key: "vars", Value: variables}, {Key: "in", Value: in}}}}
}

// toDouble is a number of any type as one, and null where there is none:
// arithmetic on another program's list would fail the whole query.
func toDouble(f *Field) bson.D {
	return bson.D{{Key: "$convert", Value: bson.D{
		{Key: "input", Value: "$" + f.Path}, {Key: "to", Value: "double"}, {Key: "onError", Value: nil}, {Key: "onNull", Value: nil},
	}}}
}
