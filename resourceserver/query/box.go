package query

import (
	"math"
	"strconv"
	"strings"

	"github.com/urbandata/urbandata/pkg/i18n"
)

// ParseBox reads a bounding box, west,south,east,north in degrees (RFC 7946
// §5), as a condition on a longitude and a latitude. Borders belong to it. A
// box whose west is greater than its east crosses the antimeridian. The
// meridians 180 and -180 are one, and a pole is one point whatever longitude
// it was given.
func ParseBox(parameter, text string, x, y *Field) (Node, error) {
	fail := func(reason i18n.Text) (Node, error) {
		return Node{}, &Error{parameter, reason, "write west,south,east,north in degrees, as in -3.8,40.3,-3.6,40.5; a west greater than the east crosses the antimeridian"}
	}
	parts := strings.Split(text, ",")
	if len(parts) != 4 {
		return fail("must be four numbers with a comma between")
	}
	var at [4]float64
	for i, part := range parts {
		v, err := strconv.ParseFloat(part, 64)
		if err != nil || strings.Trim(part, "0123456789+-.eE") != "" {
			return fail("must be four numbers with a comma between")
		}
		if bound := []float64{180, 90}[i%2]; math.Abs(v) > bound {
			return fail("has a longitude beyond 180 or a latitude beyond 90")
		}
		at[i] = v + 0 // no -0
	}
	west, south, east, north := at[0], at[1], at[2], at[3]
	if south > north {
		return fail("has a south that is north of its north")
	}
	return box(x, y, west, south, east, north), nil
}

// box is the condition of a place being in a box; a west greater than the
// east crosses the antimeridian.
func box(x, y *Field, west, south, east, north float64) Node {
	on := func(f *Field, op Op, v float64) Node { return Node{Op: op, Field: f, Value: v} }
	height := []Node{on(y, Gte, south), on(y, Lte, north)}
	var widths []Node
	if west > east {
		widths = []Node{on(x, Gte, west), on(x, Lte, east)}
	} else {
		widths = []Node{both(on(x, Gte, west), on(x, Lte, east))}
		if east == 180 && west > -180 {
			widths = append(widths, on(x, Eq, -180))
		}
		if west == -180 && east < 180 {
			widths = append(widths, on(x, Eq, 180))
		}
	}
	for _, pole := range []float64{-90, 90} {
		if south <= pole && pole <= north {
			widths = append(widths, on(y, Eq, pole))
		}
	}
	if len(widths) == 1 {
		return both(append(widths[0].Nodes, height...)...)
	}
	return both(append(height, Node{Op: Or, Nodes: widths})...)
}

// Join is a tree that is true where both are.
func Join(a, b Node) Node { return both(a, b) }

// Box is one from its west to its east, without a meridian or a pole between
// that needs another one.
type Box struct{ West, South, East, North float64 }

// boxes are those of what [box] is true of.
func boxes(all []Box, west, south, east, north float64) []Box {
	switch {
	case west > east:
		all = append(all, Box{west, south, 180, north}, Box{-180, south, east, north})
	default:
		all = append(all, Box{west, south, east, north})
		if east == 180 && west > -180 {
			all = append(all, Box{-180, south, -180, north})
		}
		if west == -180 && east < 180 {
			all = append(all, Box{180, south, 180, north})
		}
	}
	if south == -90 {
		all = append(all, Box{-180, -90, 180, -90})
	}
	if north == 90 {
		all = append(all, Box{-180, 90, 180, 90})
	}
	return all
}

// Boxes are around whatever the tree is true of, for an index of places: the
// fewest of those of its conditions. nil is everywhere.
func (n *Node) Boxes() (all []Box) {
	switch n.Op {
	case And:
		for i := range n.Nodes {
			if some := n.Nodes[i].Boxes(); some != nil && (all == nil || extent(some) < extent(all)) {
				all = some
			}
		}
	case Near:
		west, south, east, north := n.Value.(*Circle).corners()
		return boxes(nil, west, south, east, north)
	case Inside:
		for _, p := range n.Value.(*Area).outlines() {
			all = boxes(all, p.west, p.south, p.east, p.north)
		}
	}
	return all
}

// Ranges is the box that a tree's comparisons with both coordinates leave, nil
// if they leave all of one.
func (n *Node) Ranges(x, y *Field) []Box {
	b := Box{-180, -90, 180, 90}
	for _, one := range append(n.Nodes[:len(n.Nodes):len(n.Nodes)], *n) {
		v, ok := one.Value.(float64)
		if n.Op != And || !ok {
			continue
		}
		least, most := &b.West, &b.East
		if one.Field == y {
			least, most = &b.South, &b.North
		} else if one.Field != x {
			continue
		}
		switch one.Op {
		case Gt, Gte:
			*least = max(*least, v)
		case Lt, Lte:
			*most = min(*most, v)
		}
	}
	if b.West == -180 && b.East == 180 || b.South == -90 && b.North == 90 {
		return nil
	}
	return []Box{b}
}

// Around is a condition on the coordinates alone that holds wherever the tree
// is true, by the boxes around the places of all its conditions: for an index
// on a coordinate.
func (n *Node) Around() Node {
	switch n.Op {
	case And:
		var all []Node
		for i := range n.Nodes {
			all = append(all, n.Nodes[i].Around())
		}
		return both(all...)
	case Near:
		return n.Value.(*Circle).around()
	case Inside:
		return n.Value.(*Area).around()
	}
	return Node{}
}

// extent is the area of boxes in square degrees.
func extent(all []Box) (sum float64) {
	for _, b := range all {
		sum += (b.East - b.West) * (b.North - b.South)
	}
	return sum
}
