package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// mongoIndexes serve the queries that docs/api.md lists: each an order, alone
// or behind one field with a single value. A test asks for the plan of each
// query.
var mongoIndexes = []mongo.IndexModel{
	{Keys: bson.D{{Key: "date_key", Value: -1}, {Key: "_id", Value: 1}, {Key: "x_coord", Value: 1}, {Key: "y_coord", Value: 1}}},
	{Keys: bson.D{{Key: "listing_type", Value: 1}, {Key: "date_key", Value: -1}, {Key: "_id", Value: 1}}},
	{Keys: bson.D{{Key: "listing_type", Value: 1}, {Key: "property_type", Value: 1}, {Key: "date_key", Value: -1}, {Key: "_id", Value: 1}, {Key: "start_month", Value: 1}}},
	{Keys: monthsIndex},
	{Keys: bson.D{{Key: "boundary_id", Value: 1}, {Key: "date_key", Value: -1}, {Key: "_id", Value: 1}}},
	{Keys: bson.D{{Key: "owner", Value: 1}, {Key: "date_key", Value: -1}, {Key: "_id", Value: 1}}},
	{Keys: bson.D{{Key: "other_id", Value: 1}, {Key: "_id", Value: 1}}},
	{Keys: bson.D{{Key: "x_coord", Value: -1}, {Key: "_id", Value: 1}, {Key: "y_coord", Value: 1}}},
	{Keys: bson.D{{Key: query.WordsPath, Value: 1}}},
}

// replacedIndexes are of earlier releases. Each is the beginning of one above,
// which serves that release as well; a server of it that starts makes its own
// again.
var replacedIndexes = []string{"date_key_-1__id_1"}

// Prepare makes the indexes that are missing, while others read and write,
// and gives keys to dates that have none. Call it when a server starts; any
// number may at once.
func (s *Mongo) Prepare(ctx context.Context) error {
	if _, err := s.inmuebles.Indexes().CreateMany(ctx, mongoIndexes); err != nil {
		return mongoError("make the indexes", err)
	}
	for _, name := range replacedIndexes {
		const indexNotFound = 27
		_, err := s.inmuebles.Indexes().DropOne(ctx, name)
		if code, ok := errors.AsType[mongo.CommandError](err); err != nil && !(ok && code.Code == indexNotFound) {
			return mongoError("drop an index that another has taken the place of", err)
		}
	}
	if err := s.imports.prepare(ctx); err != nil {
		return err
	}
	return s.sweep(ctx)
}

// sweepEvery is how old the last sweep may be when a query is about a date.
const sweepEvery = time.Minute

// sweep gives keys to dates that have none: those of a release before there
// were any, or of another program. The index finds them, or that there are
// none, at once.
func (s *Mongo) sweep(ctx context.Context) error {
	s.swept.Store(time.Now().UnixNano())
	lacking, err := s.inmuebles.Find(ctx, bson.D{{Key: "date_key", Value: nil}, {Key: "date", Value: bson.D{{Key: "$type", Value: "string"}}}},
		options.Find().SetProjection(bson.D{{Key: "date", Value: 1}, {Key: "date_in", Value: 1}}))
	if err != nil {
		return mongoError("look for dates without a key", err)
	}
	defer func() { _ = lacking.Close(context.WithoutCancel(ctx)) }()
	var batch []mongo.WriteModel
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		_, err := s.inmuebles.BulkWrite(ctx, batch, options.BulkWrite().SetOrdered(false))
		batch = batch[:0]
		return mongoError("give dates their keys", err)
	}
	for lacking.Next(ctx) {
		// The dates are in the condition: who changed them has set the keys.
		same, set := bson.D{}, bson.D{}
		for _, name := range []string{"_id", "date", "date_in"} {
			v := lacking.Current.Lookup(name)
			if v.IsZero() {
				continue
			}
			same = append(same, bson.E{Key: name, Value: v})
			if text, ok := v.StringValueOK(); ok && name != "_id" {
				set = append(set, bson.E{Key: name + keySuffix, Value: query.DateKey(text)})
			}
		}
		batch = append(batch, mongo.NewUpdateOneModel().SetFilter(same).SetUpdate(bson.D{{Key: "$set", Value: set}}))
		if len(batch) == importBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := lacking.Err(); err != nil {
		return mongoError("look for dates without a key", err)
	}
	return flush()
}

// sweepFor sweeps if the query is about dates and the last time is too long
// ago.
func (s *Mongo) sweepFor(ctx context.Context, q *Query) error {
	if !q.aboutDates() || time.Now().UnixNano()-s.swept.Load() <= int64(sweepEvery) {
		return nil
	}
	return s.sweep(ctx)
}

// mongoPlan is a query as MongoDB is asked: a filter and a sort, and what must
// be computed of each document between the two, if anything.
func mongoPlan(q *Query) (filter, computed, sort bson.D) {
	filter = q.Where.Mongo()
	if q.After == nil && q.newestOfPlace() {
		// True of everything: MongoDB looks at what stands behind the date in
		// the index, and not in each document, where something is asked of it.
		filter = bson.D{{Key: "$and", Value: bson.A{bson.D{{Key: "date_key", Value: bson.D{{Key: "$gte", Value: primitive.MinKey{}}}}}, filter}}}
	}
	if q.After != nil {
		// Each part is a range of the index on the order, and MongoDB merges
		// them; with the filter outside the $or it would sort instead.
		var either bson.A
		for _, part := range q.Order.Seek(q.After) {
			for _, where := range eachMonth(arms(q)) {
				one := part.Mongo()
				if !where.All() {
					one = bson.D{{Key: "$and", Value: bson.A{where.Mongo(), one}}}
				}
				either = append(either, one)
			}
		}
		filter = bson.D{{Key: "$or", Value: either}}
		if len(either) == 1 {
			filter, _ = either[0].(bson.D)
		}
	}
	if len(q.Order) == 1 && q.After == nil { // the order of the _id: from the first text
		filter = withTextID(&q.Where)
	}
	sort, computed = q.Order.MongoSort()
	return filter, computed, sort
}

// withTextID is a condition that is true of no document without a text for
// its _id, which isn't ours.
func withTextID(where *query.Node) bson.D {
	text := bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: ""}}}}
	if where.All() {
		return text
	}
	return bson.D{{Key: "$and", Value: bson.A{where.Mongo(), text}}}
}

// find is Find without rings.
func (s *Mongo) find(ctx context.Context, q Query) (page Page, err error) {
	if err := s.sweepFor(ctx, &q); err != nil {
		return Page{}, err
	}
	if page, ok, err := s.findByMonths(ctx, &q); ok || err != nil {
		return page, err
	}
	return s.findPage(ctx, &q, nil)
}

// findPage asks for one document more than wanted, to learn whether there are
// more, and for all in one batch: the server's first batch is of 101 and a
// second one costs a round trip. With the batch as large as the limit the
// server would keep the cursor open, to be closed in a second trip: it is one
// larger. A hint names the index to use.
func (s *Mongo) findPage(ctx context.Context, q *Query, hint any) (page Page, err error) {
	filter, computed, sort := mongoPlan(q)
	limit, batch := int64(q.Limit)+1, int32(q.Limit)+2 //nolint:gosec // a page is small
	var cursor *mongo.Cursor
	if computed == nil {
		o := options.Find().SetSort(sort).SetProjection(withoutWords).SetSkip(int64(q.Skip)).
			SetLimit(limit).SetBatchSize(batch).SetMaxTime(timeLeft(ctx))
		if hint != nil {
			o.SetHint(hint)
		}
		cursor, err = s.inmuebles.Find(ctx, filter, o)
	} else {
		cursor, err = s.inmuebles.Aggregate(ctx, mongo.Pipeline{
			{{Key: "$match", Value: filter}},
			{{Key: "$addFields", Value: computed}},
			{{Key: "$sort", Value: sort}},
			{{Key: "$skip", Value: q.Skip}},
			{{Key: "$limit", Value: limit}},
		}, options.Aggregate().SetBatchSize(batch).SetMaxTime(timeLeft(ctx)))
	}
	if err != nil {
		return Page{}, mongoError("list", err)
	}
	defer func() { _ = cursor.Close(context.WithoutCancel(ctx)) }()
	page = newPage(q)
	var last bson.Raw // the document before, whose keys are in order but not looked up yet
	for cursor.Next(ctx) {
		if page.met == q.Limit || page.size >= maxPageBytes {
			page.More = true
			break
		}
		if own := page.addBSON(q.Into, cursor.Current); own && page.First != nil {
			last, page.Skip = append(last[:0], cursor.Current...), 0
			continue
		}
		if keys := mongoKeys(q.Order, cursor.Current); keys == nil {
			page.Skip++ // a spoiled one: nothing can be behind it
		} else {
			if page.First == nil {
				page.First = keys
			}
			last, page.After, page.Skip = last[:0], keys, 0
		}
	}
	if len(last) > 0 {
		page.After = mongoKeys(q.Order, last)
	}
	if err := cursor.Err(); err != nil {
		return Page{}, mongoError("list", err)
	}
	if page.First != nil && page.Skip > 0 {
		page.Skip = 0 // they are met again, or aren't behind page.After
	}
	return page, nil
}

// withoutWords leaves out what a document is found by and no answer has: it is
// as long as the rest.
var withoutWords = bson.D{{Key: query.WordsPath, Value: 0}}

// mongoKeys are a document's keys in an order, or nil if one isn't of the
// field's type.
func mongoKeys(order query.Order, doc bson.Raw) []any {
	keys := make([]any, len(order))
	for i, k := range order {
		v, err := doc.LookupErr(k.Field.Path)
		if err != nil || v.Type == bson.TypeNull {
			if keys[i] = k.Field.Default; keys[i] == nil && !k.Field.Nullable {
				return nil
			}
			continue
		}
		switch k.Field.Kind {
		case query.Text, query.Date:
			text, ok := v.StringValueOK()
			if !ok {
				return nil
			}
			keys[i] = text
		case query.Int:
			n, ok := wholeBSON(v)
			if !ok {
				return nil
			}
			keys[i] = n
		case query.Float:
			x, ok := v.DoubleOK()
			if n, whole := wholeBSON(v); !ok && whole {
				x, ok = float64(n), true
			}
			if !ok || math.IsNaN(x) {
				return nil
			}
			keys[i] = x
		case query.Bool:
			b, ok := v.BooleanOK()
			if !ok {
				return nil
			}
			keys[i] = b
		case query.Time:
			ms, ok := v.DateTimeOK()
			if !ok {
				return nil
			}
			keys[i] = ms
		}
	}
	return keys
}

// wholeBSON is a whole number of any numeric type.
func wholeBSON(v bson.RawValue) (int64, bool) {
	if x, ok := v.DoubleOK(); ok {
		return int64(x), x == math.Trunc(x) && math.Abs(x) <= 1<<53
	}
	return v.AsInt64OK()
}

// Count counts documents.
func (s *Mongo) Count(ctx context.Context, where query.Node, most int) (int, error) {
	o := options.Count().SetMaxTime(timeLeft(ctx))
	if most > 0 {
		o.SetLimit(int64(most))
	}
	n, err := s.inmuebles.CountDocuments(ctx, withTextID(&where), o)
	return int(n), mongoError("count", err)
}

// timeLeft is what the server may spend, which would not hear of a deadline
// otherwise and go on for nobody; 0 is no limit.
func timeLeft(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Millisecond, time.Until(deadline))
}

// CursorKey is the secret by which cursors are authenticated, made by
// whichever server asks first.
func (s *Mongo) CursorKey(ctx context.Context) ([]byte, error) {
	id := bson.D{{Key: "_id", Value: "cursor key"}}
	_, err := s.settings.UpdateOne(ctx, id, bson.D{{Key: "$setOnInsert", Value: bson.D{{Key: "value", Value: newCursorKey()}}}},
		options.Update().SetUpsert(true))
	if err != nil && !mongo.IsDuplicateKeyError(err) { // somebody was faster
		return nil, mongoError("make the key of the cursors", err)
	}
	var stored struct{ Value primitive.Binary }
	if err := s.settings.FindOne(ctx, id).Decode(&stored); err != nil {
		return nil, mongoError("read the key of the cursors", err)
	}
	if len(stored.Value.Data) < 16 {
		return nil, fmt.Errorf("resourceserver: the key of the cursors in the database has %d bytes", len(stored.Value.Data))
	}
	return stored.Value.Data, nil
}
