package resourceserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

// Update reads, changes, and writes if the document is still what was read.
func (s *Mongo) Update(ctx context.Context, id string, by By, change func(Inmueble) (Inmueble, error)) (Inmueble, error) {
	return s.change(ctx, id, by, func(current *Inmueble, readable bool) (*Inmueble, error) {
		if !readable {
			return nil, ErrUnreadable
		}
		next, err := change(*current)
		return &next, err
	})
}

// change puts what next returns in the place of what is stored, or removes it
// for nil. The write's filter wants the whole document as it was read, so no
// program that changed anything of it can have come between; then the
// step is made anew, and somebody else's write succeeded.
func (s *Mongo) change(ctx context.Context, id string, by By, next func(current *Inmueble, readable bool) (*Inmueble, error)) (Inmueble, error) {
	for {
		doc, err := s.inmuebles.FindOne(ctx, bson.D{{Key: "_id", Value: id}}).Raw()
		if errors.Is(err, mongo.ErrNoDocuments) {
			return Inmueble{}, ErrNotFound
		}
		if err != nil {
			return Inmueble{}, mongoError("read", err)
		}
		current, _, err := parseBSON(doc)
		readable := err == nil
		switch {
		case !by.mayChange(current.Owner):
			return Inmueble{}, ErrNotOwner
		case !by.match.holds(&current, readable):
			return Inmueble{}, ErrChanged
		}
		m, err := next(&current, readable)
		if err != nil {
			return Inmueble{}, err
		}
		if m == nil {
			result, err := s.inmuebles.DeleteOne(ctx, asRead(id, doc))
			if err != nil {
				return Inmueble{}, mongoError("delete", err)
			}
			if result.DeletedCount == 1 {
				return Inmueble{}, nil
			}
			continue
		}
		stored, same := settle(&current, readable, *m)
		if same {
			return stored, nil
		}
		result, err := s.inmuebles.ReplaceOne(ctx, asRead(id, doc), bson.Raw(stored.withWords(stored.appendBSON(nil))))
		if err != nil {
			return Inmueble{}, mongoError("replace", err)
		}
		if result.MatchedCount == 1 {
			return stored, nil
		}
	}
}

// loadAttempts bounds how often Load starts anew after conflicts with other
// writers.
const loadAttempts = 8

// Load is one transaction while that can be: MongoDB keeps all of one in its
// cache, and ends it after a minute. Larger ones are in mongo_load.go.
func (s *Mongo) Load(ctx context.Context, b Batch) (l Loaded, err error) {
	if b.Once != nil {
		if err := s.expire(ctx); err != nil {
			return Loaded{}, err
		}
	}
	if !b.Replayable {
		rows, stop := iter.Pull2(b.Rows)
		defer stop()
		if b.Rows, b.large, err = takeUpTo(maxTransaction, rows); err != nil {
			return Loaded{}, err
		}
		if b.DryRun {
			return s.loadDry(ctx, b)
		}
		if b.large {
			return s.loadLarge(ctx, b)
		}
		b.Replayable = b.Reject == nil && b.Stored == nil // they are in memory now
	}
	for range loadAttempts {
		l, err = s.loadAtOnce(ctx, b)
		if err == nil || !b.Replayable || !isTransient(err) || errors.Is(err, ErrInProgress) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return Loaded{}, err
	}
	return l, nil
}

// isTransient reports whether a transaction met another one, or a new
// primary, and had no effect.
func isTransient(err error) bool {
	labeled, ok := errors.AsType[mongo.LabeledError](err)
	return ok && labeled.HasErrorLabel("TransientTransactionError")
}

// loadAtOnce is one transaction.
func (s *Mongo) loadAtOnce(ctx context.Context, b Batch) (l Loaded, err error) {
	session, err := s.inmuebles.Database().Client().StartSession()
	if err != nil {
		return l, mongoError("begin", err)
	}
	defer session.EndSession(context.WithoutCancel(ctx)) // ends a transaction that still runs
	if err := session.StartTransaction(); err != nil {
		return l, mongoError("begin", err)
	}
	tx := mongo.NewSessionContext(ctx, session)
	if err := s.first(tx, b.Once); err != nil {
		return l, err
	}
	// The transaction fails if another one changes any of it meanwhile.
	if err := b.load(func(rows []Row, first int) error { return s.send(tx, &b, rows, first, &l, nil) }); err != nil {
		return l, err
	}
	if b.DryRun {
		return l, nil // EndSession ends the transaction
	}
	if err := s.step(tx, &b, l); err != nil {
		return l, err
	}
	if err := s.last(tx, b.Once); err != nil {
		return l, err
	}
	return l, s.commit(tx, session)
}

// send stores a chunk of a batch. mark is that of a large load, or nil in a
// transaction.
func (s *Mongo) send(ctx context.Context, b *Batch, rows []Row, first int, l *Loaded, mark *loadMark) error {
	if b.plain() {
		return s.insertAll(ctx, b, rows, first, l, mark)
	}
	have, err := s.known(ctx, s.inmuebles, rows)
	if err != nil {
		return err
	}
	if err := b.decide(rows, first, have, l); err != nil {
		return err
	}
	var fresh, before []any
	var changed []mongo.WriteModel
	for id, k := range have {
		switch {
		case !k.changed:
		case k.stored:
			filter := bson.D{{Key: "_id", Value: id}}
			if mark != nil {
				filter = asRead(id, k.raw)
				before = append(before, mark.before(id, k.raw))
			}
			changed = append(changed, mongo.NewReplaceOneModel().SetFilter(filter).SetReplacement(mark.on(k.m.appendBSON(nil))))
		default:
			fresh = append(fresh, mark.on(k.m.appendBSON(nil)))
		}
	}
	if before != nil {
		if _, err := s.undo.InsertMany(ctx, before, options.InsertMany().SetOrdered(false)); err != nil {
			return mongoError("keep what was", err)
		}
	}
	if fresh != nil {
		if _, err := s.inmuebles.InsertMany(ctx, fresh); err != nil {
			return mongoError("insert", err)
		}
	}
	if changed != nil {
		result, err := s.inmuebles.BulkWrite(ctx, changed, options.BulkWrite().SetOrdered(false))
		if err != nil {
			return mongoError("write", err)
		}
		if result.MatchedCount != int64(len(changed)) {
			return fmt.Errorf("%w: another writer changed what was being loaded", ErrUnavailable)
		}
	}
	return nil
}

// insertAll leaves it to the key's index to find duplicates.
func (s *Mongo) insertAll(ctx context.Context, b *Batch, rows []Row, first int, l *Loaded, mark *loadMark) error {
	docs := make([]any, len(rows))
	for i := range rows {
		if bad := rows[i].given.missing(1); bad != nil {
			return &BatchError{ID: rows[i].ID, Ordinal: first + i, Err: bad}
		}
		docs[i] = mark.on(rows[i].appendBSON(nil))
	}
	_, err := s.inmuebles.InsertMany(ctx, docs)
	if at, taken := takenAt(err); taken {
		return &BatchError{ID: rows[at].ID, Ordinal: first + at, Err: ErrDuplicate}
	}
	if err != nil {
		return mongoError("insert", err)
	}
	l[Inserted] += len(rows)
	for i := range rows {
		if b.Stored != nil {
			b.Stored(rows[i].Inmueble, Inserted)
		}
	}
	return nil
}

// known reads what a collection has of a chunk's _ids.
func (s *Mongo) known(ctx context.Context, c *mongo.Collection, rows []Row) (map[string]*known, error) {
	ids := make([]string, len(rows))
	for i := range rows {
		ids[i] = rows[i].ID
	}
	cursor, err := c.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}, options.Find().SetBatchSize(importBatch+1))
	if err != nil {
		return nil, mongoError("read", err)
	}
	have := make(map[string]*known, len(rows))
	for cursor.Next(ctx) {
		raw := bytes.Clone(cursor.Current)
		m, id, err := parseBSON(raw)
		have[id] = &known{m: m, exists: true, stored: true, readable: err == nil, raw: raw}
	}
	if err := errors.Join(cursor.Err(), cursor.Close(context.WithoutCancel(ctx))); err != nil {
		return nil, mongoError("read", err)
	}
	return have, nil
}

// asRead finds a document only if it is still what was read.
func asRead(id string, raw []byte) bson.D {
	return bson.D{
		{Key: "_id", Value: id},
		{Key: "$expr", Value: bson.D{{Key: "$eq", Value: bson.A{"$$ROOT", bson.D{{Key: "$literal", Value: bson.Raw(raw)}}}}}},
	}
}

// answered is a document of the collection idempotency.
type answered struct {
	Key     string             `bson:"_id"`
	Print   string             `bson:"print"`
	Answer  []byte             `bson:"answer"`
	Expires primitive.DateTime `bson:"expires_at"`
}

// expire has MongoDB remove old answers by itself.
func (s *Mongo) expire(ctx context.Context) error {
	if s.expiry.Load() {
		return nil
	}
	_, err := s.once.Indexes().CreateOne(ctx, mongo.IndexModel{
		Keys: bson.D{{Key: "expires_at", Value: 1}}, Options: options.Index().SetExpireAfterSeconds(0),
	})
	s.expiry.Store(err == nil)
	return mongoError("make an index", err)
}

// first claims the key. Two that claim it at once conflict here, and one of
// them fails.
func (s *Mongo) first(tx mongo.SessionContext, once *Once) error {
	if once == nil {
		return nil
	}
	key := bson.D{{Key: "_id", Value: once.Key}}
	var had answered
	err := s.once.FindOne(tx, key).Decode(&had)
	switch {
	case err != nil && !errors.Is(err, mongo.ErrNoDocuments):
		return mongoError("look for an answer", err)
	case err == nil && had.Expires.Time().After(once.Now):
		if had.Print != once.Print {
			return ErrOtherRequest
		}
		return &RepeatError{bytes.Clone(had.Answer)}
	}
	_, err = s.once.ReplaceOne(tx, key, answered{once.Key, once.Print, nil, once.until()}, options.Replace().SetUpsert(true))
	if isTransient(err) || mongo.IsDuplicateKeyError(err) {
		return fmt.Errorf("%w: %w", ErrInProgress, err)
	}
	return mongoError("claim the key", err)
}

// last keeps the answer.
func (s *Mongo) last(tx mongo.SessionContext, once *Once) error {
	if once == nil {
		return nil
	}
	_, err := s.once.ReplaceOne(tx, bson.D{{Key: "_id", Value: once.Key}}, answered{once.Key, once.Print, once.Answer(), once.until()})
	return mongoError("keep the answer", err)
}

func (o *Once) until() primitive.DateTime { return primitive.NewDateTimeFromTime(o.Now.Add(o.Keep)) }
