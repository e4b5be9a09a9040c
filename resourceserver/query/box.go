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
		return both(append(widths[0].Nodes, height...)...), nil
	}
	return both(append(height, Node{Op: Or, Nodes: widths})...), nil
}

// Join is a tree that is true where both are.
func Join(a, b Node) Node { return both(a, b) }
