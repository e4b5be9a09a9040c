package resourceserver

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/readconcern"
	"golang.org/x/sync/errgroup"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// A document has the list of its words beside title and description, because
// an index needs it: some thirty keys of it, which cost more than all the rest
// of an insert. So a new document has no list, and is given one behind the
// writers; one that is changed here keeps it up to date in the same write.
// Another program knows nothing of the list:
//
//	a document is added, or a whole one put        ─► no list: every query looks at it itself
//	another program changes a title, and no list   ─► the list is out of date: a query may miss it
//
// [Mongo.Run] gives lists to the first and mends the second. It hears of them
// by a change stream, some milliseconds later; and when it starts, or has lost
// the stream, it looks through all documents, because any may have changed
// meanwhile. What a list says is never believed: it names candidates.

// keepWords mends lists as long as ctx lives.
func (s *Mongo) keepWords(ctx context.Context) {
	const again = time.Minute // after a stream was lost, or where there is none
	for {
		_ = s.followWords(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
		}
	}
}

// followWords looks through all documents, and then at what changes, until
// the stream is lost. The stream is opened first, so that nothing is missed
// between the two.
func (s *Mongo) followWords(ctx context.Context) error {
	durable, err := s.inmuebles.Clone(options.Collection().SetReadConcern(readconcern.Majority())) // a stream takes no other
	if err != nil {
		return mongoError("watch for changes", err)
	}
	changes, err := durable.Watch(ctx, changesOfWords, options.ChangeStream().SetBatchSize(importBatch))
	if err != nil {
		return errors.Join(mongoError("watch for changes", err), s.checkWords(ctx))
	}
	defer func() { _ = changes.Close(context.WithoutCancel(ctx)) }()
	if err := s.checkWords(ctx); err != nil {
		return err
	}
	for changes.Next(ctx) {
		var ids bson.A
		add := func() {
			if id, ok := changes.Current.Lookup("documentKey", "_id").StringValueOK(); ok {
				ids = append(ids, id)
			}
		}
		for add(); changes.RemainingBatchLength() > 0 && changes.TryNext(ctx); {
			add()
		}
		if ids == nil {
			continue
		}
		if _, err := s.mendWords(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}, len(ids)); err != nil {
			return err
		}
	}
	return mongoError("watch for changes", changes.Err())
}

// changesOfWords are those after which a list may be missing or out of date.
var changesOfWords = func() mongo.Pipeline {
	exists := func(path string, there bool) bson.D {
		return bson.D{{Key: path, Value: bson.D{{Key: "$exists", Value: there}}}}
	}
	kind := func(name string) bson.E { return bson.E{Key: "operationType", Value: name} }
	return mongo.Pipeline{
		{{Key: "$match", Value: bson.D{{Key: "$or", Value: bson.A{
			bson.D{kind("replace")},
			append(bson.D{kind("insert")}, exists("fullDocument."+query.WordsPath, false)...),
			bson.D{kind("update"), {Key: "$or", Value: bson.A{
				exists("updateDescription.updatedFields.title", true),
				exists("updateDescription.updatedFields.description", true),
				bson.D{{Key: "updateDescription.removedFields", Value: bson.D{{Key: "$in", Value: bson.A{"title", "description", query.WordsPath}}}}},
			}}},
		}}}}},
		{{Key: "$project", Value: bson.D{{Key: "documentKey", Value: 1}}}},
	}
}()

// checkWords looks through all documents, some at a time, and takes no more
// than half of the database's time.
func (s *Mongo) checkWords(ctx context.Context) error {
	var after any = "" // the first text
	for {
		begun := time.Now()
		last, err := s.mendWords(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: after}}}}, importBatch)
		if err != nil || last == nil {
			return err
		}
		after = last
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Since(begun)):
		}
	}
}

// mendWords gives their lists to the first of the documents that filter finds,
// in the order of the _id, and returns the last _id, or nil if there was none.
func (s *Mongo) mendWords(ctx context.Context, filter bson.D, most int) (last any, err error) {
	cursor, err := s.inmuebles.Find(ctx, filter, options.Find().
		SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(most)).SetBatchSize(int32(most)+1). //nolint:gosec // a batch
		SetProjection(bson.D{{Key: "title", Value: 1}, {Key: "description", Value: 1}, {Key: query.WordsPath, Value: 1}}))
	if err != nil {
		return nil, mongoError("look at words", err)
	}
	defer func() { _ = cursor.Close(context.WithoutCancel(ctx)) }()
	var batch []mongo.WriteModel
	for cursor.Next(ctx) {
		doc := cursor.Current
		id := doc.Lookup("_id")
		last = bson.RawValue{Type: id.Type, Value: slices.Clone(id.Value)} // the cursor uses the memory again
		title, _ := doc.Lookup("title").StringValueOK()
		description, _ := doc.Lookup("description").StringValueOK()
		words := query.Words(title, description)
		if hasWords(doc, words) {
			continue
		}
		// The texts are in the condition: who changed them has set the list,
		// or is heard of.
		same := bson.D{}
		for _, name := range []string{"_id", "title", "description"} {
			if v := doc.Lookup(name); !v.IsZero() {
				same = append(same, bson.E{Key: name, Value: v})
			} else {
				same = append(same, bson.E{Key: name, Value: nil})
			}
		}
		batch = append(batch, mongo.NewUpdateOneModel().SetFilter(same).
			SetUpdate(bson.D{{Key: "$set", Value: bson.D{{Key: query.WordsPath, Value: words}}}}))
	}
	if err := cursor.Err(); err != nil {
		return nil, mongoError("look at words", err)
	}
	if batch == nil {
		return last, nil
	}
	_, err = s.inmuebles.BulkWrite(ctx, batch, options.BulkWrite().SetOrdered(false))
	return last, mongoError("give words", err)
}

// hasWords reports whether a document's list is this one.
func hasWords(doc bson.Raw, words []string) bool {
	list, ok := doc.Lookup(query.WordsPath).ArrayOK()
	if !ok {
		return false
	}
	values, err := list.Values()
	if err != nil || len(values) != len(words) {
		return false
	}
	for i, v := range values {
		if word, ok := v.StringValueOK(); !ok || word != words[i] {
			return false
		}
	}
	return true
}

// Run undoes loads whose process died, and keeps the lists of words, as long
// as ctx lives. A server runs it.
func (s *Mongo) Run(ctx context.Context) error {
	var both errgroup.Group
	both.Go(func() error { s.keepWords(ctx); return nil })
	both.Go(func() error { s.recoverLoads(ctx); return nil })
	return both.Wait()
}
