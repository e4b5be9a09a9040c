package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"
)

// A load that is too large for a transaction marks each document that it
// stores, keeps those that it changes as they were, and is entered in the
// collection loads until it is complete:
//
//	enter ─► store, marked ─► strike out                   done
//	  │            │
//	  │            └─ failed ─► undo ─► strike out         nothing stored
//	  └─ its process died: no sign of life for loadLease
//	               └─ another process ─► undo ─► strike out
//
// To undo puts back what was kept, and removes the rest of what has the mark.
// Each step can be made twice. What somebody else has changed meanwhile has
// no mark any more, and stays: that was acknowledged. A mark that stays after
// a complete load means nothing.

const (
	// maxTransaction is how many rows one transaction takes.
	maxTransaction = 4 * importBatch

	// A large load gives a sign of life every loadPulse, and is given up for
	// dead after loadLease.
	loadPulse = 2 * time.Second
	loadLease = 10 * time.Second

	nameMark = "_load"
)

// errGivenUp: a process took this one's load for dead.
var errGivenUp = fmt.Errorf("%w: the load gave no sign of life for %s and was undone", ErrUnavailable, loadLease)

// loadMark is on the documents of one large load. nil marks nothing.
type loadMark struct{ id primitive.ObjectID }

// on adds the mark to a document.
func (m *loadMark) on(doc []byte) bson.Raw {
	if m == nil {
		return doc
	}
	doc = bsoncore.AppendObjectIDElement(doc[:len(doc)-1], nameMark, m.id)
	doc = append(doc, 0)
	return bsoncore.UpdateLength(doc, 0, int32(len(doc))) //nolint:gosec // a document is small
}

// before is a document as it is kept for the undoing.
func (m *loadMark) before(id string, raw []byte) bson.D {
	return bson.D{
		{Key: "_id", Value: bson.D{{Key: "load", Value: m.id}, {Key: "id", Value: id}}},
		{Key: "load", Value: m.id},
		{Key: "document", Value: bson.Raw(raw)},
	}
}

// takeUpTo reads rows ahead, at most n of them. What it returns yields those
// and then the others.
func takeUpTo(n int, next func() (Row, error, bool)) (all iter.Seq2[Row, error], more bool, err error) {
	var ahead []Row
	size := 0
	for len(ahead) <= n && size < 4*loadBytes {
		r, err, ok := next()
		if !ok {
			return func(yield func(Row, error) bool) {
				for _, r := range ahead {
					if !yield(r, nil) {
						return
					}
				}
			}, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		size += len(r.Description) + len(r.Title)
		ahead = append(ahead, r)
	}
	return func(yield func(Row, error) bool) {
		for _, r := range ahead {
			if !yield(r, nil) {
				return
			}
		}
		ahead = nil
		for {
			r, err, ok := next()
			if !ok || !yield(r, err) || err != nil {
				return
			}
		}
	}, true, nil
}

// loadLarge stores what is too large for a transaction.
func (s *Mongo) loadLarge(ctx context.Context, b Batch) (l Loaded, err error) {
	if err := s.Recover(ctx, true); err != nil {
		return Loaded{}, err
	}
	mark := &loadMark{primitive.NewObjectID()}
	if err := s.enter(ctx, mark); err != nil {
		return Loaded{}, err
	}
	loading, stop := context.WithCancelCause(ctx)
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		s.beat(loading, mark, stop)
	}()
	err = b.load(func(rows []Row, first int) error {
		err := s.send(loading, &b, rows, first, &l, mark)
		if cause := context.Cause(loading); errors.Is(cause, errGivenUp) {
			return cause
		}
		return err
	})
	stop(nil)
	<-beating
	if err == nil {
		err = s.complete(ctx, mark, &b, l)
	}
	if err == nil {
		return l, nil
	}
	// A client that gave up must not keep this from being undone.
	undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if again := s.undoLoad(undoing, mark, errors.Is(err, errGivenUp)); again != nil {
		return Loaded{}, errors.Join(err, again) // the next process will
	}
	return Loaded{}, err
}

// enter says that a load begins. The server's clock counts.
func (s *Mongo) enter(ctx context.Context, mark *loadMark) error {
	_, err := s.loads.UpdateOne(ctx, bson.D{{Key: "_id", Value: mark.id}},
		bson.D{{Key: "$currentDate", Value: bson.D{{Key: "alive", Value: true}}}, {Key: "$set", Value: bson.D{{Key: "state", Value: "loading"}}}},
		options.Update().SetUpsert(true))
	return mongoError("enter the load", err)
}

// beat gives signs of life until ctx ends, and stops the load when it was
// given up.
func (s *Mongo) beat(ctx context.Context, mark *loadMark, stop context.CancelCauseFunc) {
	tick := time.NewTicker(loadPulse)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		result, err := s.loads.UpdateOne(ctx, ours(mark), bson.D{{Key: "$currentDate", Value: bson.D{{Key: "alive", Value: true}}}})
		if err == nil && result.MatchedCount == 0 {
			stop(errGivenUp)
			return
		}
	}
}

func ours(mark *loadMark) bson.D {
	return bson.D{{Key: "_id", Value: mark.id}, {Key: "state", Value: "loading"}}
}

// complete makes a load complete, with what a job has come to by it in one
// transaction: that of the load's end and of the job's.
func (s *Mongo) complete(ctx context.Context, mark *loadMark, b *Batch, l Loaded) error {
	if b.Step == nil {
		return s.strike(ctx, mark)
	}
	session, err := s.inmuebles.Database().Client().StartSession()
	if err != nil {
		return mongoError("complete the load", err)
	}
	defer session.EndSession(context.WithoutCancel(ctx)) // ends a transaction that still runs
	for range loadAttempts {
		if err := session.StartTransaction(); err != nil {
			return mongoError("complete the load", err)
		}
		tx := mongo.NewSessionContext(ctx, session)
		if err = s.strikeOnly(tx, mark); err == nil {
			err = s.step(tx, b, l)
		}
		if err == nil {
			err = s.commit(ctx, session)
		} else {
			_ = session.AbortTransaction(context.WithoutCancel(ctx)) // it ends by itself too
		}
		if err == nil || !isTransient(err) || ctx.Err() != nil {
			break
		}
	}
	if err == nil {
		_, _ = s.undo.DeleteMany(ctx, bson.D{{Key: "load", Value: mark.id}}) // they are of no more use, and of no harm
	}
	return err
}

// strikeOnly strikes a load out.
func (s *Mongo) strikeOnly(ctx context.Context, mark *loadMark) error {
	result, err := s.loads.DeleteOne(ctx, ours(mark))
	if err == nil && result.DeletedCount == 0 {
		return errGivenUp
	}
	return mongoError("complete the load", err)
}

// strike makes a load complete.
func (s *Mongo) strike(ctx context.Context, mark *loadMark) error {
	if err := s.strikeOnly(ctx, mark); err != nil {
		return err
	}
	_, _ = s.undo.DeleteMany(ctx, bson.D{{Key: "load", Value: mark.id}}) // they are of no more use, and of no harm
	return nil
}

// undoLoad takes back what a load has stored. One that isn't entered any more
// may be complete, unless it is given up: an answer was lost. It stays.
func (s *Mongo) undoLoad(ctx context.Context, mark *loadMark, givenUp bool) error {
	// From here on the load itself can't be completed.
	result, err := s.loads.UpdateOne(ctx, bson.D{{Key: "_id", Value: mark.id}}, bson.D{{Key: "$set", Value: bson.D{{Key: "state", Value: "undoing"}}}})
	if err != nil {
		return mongoError("undo the load", err)
	}
	if result.MatchedCount == 0 && !givenUp {
		return nil
	}
	cursor, err := s.undo.Find(ctx, bson.D{{Key: "load", Value: mark.id}})
	if err != nil {
		return mongoError("undo the load", err)
	}
	defer func() { _ = cursor.Close(context.WithoutCancel(ctx)) }()
	for cursor.Next(ctx) {
		var kept struct {
			Document bson.Raw `bson:"document"`
		}
		if err := cursor.Decode(&kept); err != nil {
			return mongoError("undo the load", err)
		}
		id := kept.Document.Lookup("_id")
		if err := s.putBack(ctx, bson.D{{Key: "_id", Value: id}, {Key: nameMark, Value: mark.id}}, kept.Document); err != nil {
			return mongoError("undo the load", err)
		}
	}
	if err := cursor.Err(); err != nil {
		return mongoError("undo the load", err)
	}
	if _, err := s.inmuebles.DeleteMany(ctx, bson.D{{Key: nameMark, Value: mark.id}}); err != nil {
		return mongoError("undo the load", err)
	}
	if _, err := s.undo.DeleteMany(ctx, bson.D{{Key: "load", Value: mark.id}}); err != nil {
		return mongoError("undo the load", err)
	}
	_, err = s.loads.DeleteOne(ctx, bson.D{{Key: "_id", Value: mark.id}})
	return mongoError("undo the load", err)
}

// Recover undoes large loads whose process died. With wait it stays until it
// is clear of each load whether it lives.
func (s *Mongo) Recover(ctx context.Context, wait bool) error {
	seen := map[primitive.ObjectID]time.Time{} // when it was last alive
	for {
		pending := false
		cursor, err := s.loads.Aggregate(ctx, mongo.Pipeline{
			{{Key: "$set", Value: bson.D{{Key: "dead", Value: bson.D{{Key: "$gt", Value: bson.A{
				bson.D{{Key: "$subtract", Value: bson.A{"$$NOW", "$alive"}}}, loadLease.Milliseconds(),
			}}}}}}},
		})
		if err != nil {
			return mongoError("look for loads", err)
		}
		var loads []struct {
			ID    primitive.ObjectID `bson:"_id"`
			Alive time.Time          `bson:"alive"`
			Dead  bool               `bson:"dead"`
		}
		if err := cursor.All(ctx, &loads); err != nil {
			return mongoError("look for loads", err)
		}
		for _, load := range loads {
			last, again := seen[load.ID]
			switch {
			case load.Dead:
				if err := s.undoLoad(ctx, &loadMark{load.ID}, false); err != nil {
					return err
				}
			case !again:
				seen[load.ID], pending = load.Alive, true
			case load.Alive.Equal(last):
				pending = true
			}
		}
		if !pending || !wait {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("resourceserver: look for loads: %w", ctx.Err())
		case <-time.After(loadPulse / 4):
		}
	}
}

// recoverLoads undoes loads whose process died, as long as ctx lives.
func (s *Mongo) recoverLoads(ctx context.Context) {
	tick := time.NewTicker(loadLease / 2)
	defer tick.Stop()
	for {
		_ = s.Recover(ctx, false) // a database that is away is tried again
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// loadDry decides as a load would. What it would store, it keeps in a
// collection of its own, so that the rows behind see it.
func (s *Mongo) loadDry(ctx context.Context, b Batch) (l Loaded, err error) {
	scratch := s.inmuebles.Database().Collection("loads_dry_" + primitive.NewObjectID().Hex())
	defer func() {
		dropping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, mongoError("drop what a dry run kept", scratch.Drop(dropping)))
	}()
	err = b.load(func(rows []Row, first int) error {
		have, err := s.known(ctx, s.inmuebles, rows)
		if err != nil {
			return err
		}
		would, err := s.known(ctx, scratch, rows)
		if err != nil {
			return err
		}
		for id, k := range would {
			have[id] = k
		}
		if err := b.decide(rows, first, have, &l); err != nil {
			return err
		}
		var keep []mongo.WriteModel
		for id, k := range have {
			if k.changed {
				keep = append(keep, mongo.NewReplaceOneModel().SetUpsert(true).
					SetFilter(bson.D{{Key: "_id", Value: id}}).SetReplacement(bson.Raw(k.m.appendBSON(nil))))
			}
		}
		if keep == nil {
			return nil
		}
		_, err = scratch.BulkWrite(ctx, keep, options.BulkWrite().SetOrdered(false))
		return mongoError("keep what would be stored", err)
	})
	if err != nil {
		return Loaded{}, err
	}
	return l, nil
}
