package resourceserver

import (
	"context"
	"strconv"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// mongoStats is the pipeline for figures. A group has its keys as k0, k1, … in
// its _id, its count as n, and of each field the figures count, min, max and
// sum with the field's number behind.
func mongoStats(q *StatsQuery) mongo.Pipeline {
	// As an expression, the condition on the _id doesn't tempt the planner to
	// walk the index on it.
	valid := bson.A{mongoIsOfKind(filterFields["_id"])}
	for _, f := range q.named() {
		valid = append(valid, mongoIsOfKind(f))
	}
	pipeline := mongo.Pipeline{
		{{Key: "$match", Value: q.Where.Mongo()}},
		{{Key: "$match", Value: bson.D{{Key: "$expr", Value: bson.D{{Key: "$and", Value: valid}}}}}},
	}
	var keys any // null: one group
	if len(q.Group) > 0 {
		all := make(bson.D, len(q.Group))
		for i, f := range q.Group {
			all[i] = bson.E{Key: "k" + strconv.Itoa(i), Value: mongoValue(f)}
		}
		keys = all
	}
	group := bson.D{{Key: "_id", Value: keys}, {Key: "n", Value: bson.D{{Key: "$sum", Value: 1}}}}
	for i, f := range q.Of {
		add := func(name, operator string, v any) {
			group = append(group, bson.E{Key: name + strconv.Itoa(i), Value: bson.D{{Key: operator, Value: v}}})
		}
		value := mongoValue(f)
		sum := value
		if f.Kind == query.Float {
			sum = bson.D{{Key: "$toLong", Value: bson.D{{Key: "$floor", Value: bson.D{{Key: "$add", Value: bson.A{
				bson.D{{Key: "$multiply", Value: bson.A{value, coordinateUnit}}}, 0.5,
			}}}}}}}
		}
		add("count", "$sum", bson.D{{Key: "$cond", Value: bson.A{bson.D{{Key: "$gt", Value: bson.A{value, nil}}}, 1, 0}}})
		add("min", "$min", value)
		add("max", "$max", value)
		add("sum", "$sum", sum)
	}
	return append(pipeline, bson.D{{Key: "$group", Value: group}}, bson.D{{Key: "$limit", Value: q.Most + 1}})
}

// mongoValue is an expression for a field's value, its default or null.
func mongoValue(f *query.Field) any {
	path := "$" + f.Path
	switch {
	case f.Kind == query.Int: // of any numeric type: 32 bits; null of whatever isn't one
		var otherwise any
		if f.Default != nil {
			otherwise = f.Default
		}
		return bson.D{{Key: "$convert", Value: bson.D{
			{Key: "input", Value: path}, {Key: "to", Value: "int"}, {Key: "onError", Value: nil}, {Key: "onNull", Value: otherwise},
		}}}
	case f.Default != nil:
		return bson.D{{Key: "$ifNull", Value: bson.A{path, f.Default}}}
	}
	return path
}

// mongoIsOfKind is an expression that is true where the field is null or
// missing, if it may be, or what a valid document has. MongoDB compares values
// of any types, numbers by their value and others by their type first.
func mongoIsOfKind(f *query.Field) any {
	path := "$" + f.Path
	isOneOf := func(types ...any) bson.D {
		return bson.D{{Key: "$in", Value: bson.A{bson.D{{Key: "$type", Value: path}}, bson.A(types)}}}
	}
	var is bson.D
	switch f.Kind {
	case query.Bool:
		return isOneOf("bool")
	case query.Int: // it is what it is as one of 32 bits
		is = bson.D{{Key: "$and", Value: bson.A{
			isOneOf("int", "long", "double"),
			bson.D{{Key: "$eq", Value: bson.A{path, mongoValue(f)}}},
		}}}
	case query.Float:
		least, most := bounds(f)
		return bson.D{{Key: "$and", Value: bson.A{
			isOneOf("int", "long", "double"),
			bson.D{{Key: "$gte", Value: bson.A{path, least}}}, // NaN is less than every number
			bson.D{{Key: "$lte", Value: bson.A{path, most}}},
		}}}
	default:
		is = isOneOf("string")
	}
	if f.Nullable || f.Default != nil {
		return bson.D{{Key: "$or", Value: bson.A{bson.D{{Key: "$lte", Value: bson.A{path, nil}}}, is}}}
	}
	return is
}

// Stats is one aggregation, of one round trip.
func (s *Mongo) Stats(ctx context.Context, q StatsQuery) ([]Group, error) {
	if err := s.sweepFor(ctx, &Query{Where: q.Where}); err != nil {
		return nil, err
	}
	cursor, err := s.inmuebles.Aggregate(ctx, mongoStats(&q),
		options.Aggregate().SetBatchSize(int32(q.Most)+2).SetMaxTime(timeLeft(ctx))) //nolint:gosec // it is small
	if err != nil {
		return nil, mongoError("add up", err)
	}
	defer func() { _ = cursor.Close(context.WithoutCancel(ctx)) }()
	var groups []Group
	for cursor.Next(ctx) {
		groups = append(groups, q.mongoGroup(cursor.Current))
	}
	if err := cursor.Err(); err != nil {
		return nil, mongoError("add up", err)
	}
	if groups == nil && len(q.Group) == 0 { // one group, of none
		groups = []Group{{Keys: []any{}, Of: make([]Figures, len(q.Of))}}
	}
	return q.finish(groups)
}

// mongoGroup reads a document of mongoStats.
func (q *StatsQuery) mongoGroup(doc bson.Raw) Group {
	g := Group{Keys: make([]any, len(q.Group)), Of: make([]Figures, len(q.Of))}
	for i := range q.Group {
		v := doc.Lookup("_id", "k"+strconv.Itoa(i))
		if n, ok := wholeBSON(v); ok {
			g.Keys[i] = n
		} else if b, ok := v.BooleanOK(); ok {
			g.Keys[i] = b
		} else if text, ok := v.StringValueOK(); ok {
			g.Keys[i] = text
		}
	}
	g.Count, _ = doc.Lookup("n").AsInt64OK()
	for i := range q.Of {
		of := func(name string) bson.RawValue { return doc.Lookup(name + strconv.Itoa(i)) }
		s := &g.Of[i]
		s.Count, _ = of("count").AsInt64OK()
		s.Min, s.Max = mongoNumber(of("min")), mongoNumber(of("max"))
		s.Sum, _ = of("sum").AsInt64OK()
	}
	return g
}

// mongoNumber is a number of any type; null is 0.
func mongoNumber(v bson.RawValue) float64 {
	if x, ok := v.DoubleOK(); ok {
		return x
	}
	n, _ := v.AsInt64OK()
	return float64(n)
}
