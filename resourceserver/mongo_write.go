package resourceserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"

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
		asRead := bson.D{
			{Key: "_id", Value: id},
			{Key: "$expr", Value: bson.D{{Key: "$eq", Value: bson.A{"$$ROOT", bson.D{{Key: "$literal", Value: doc}}}}}},
		}
		if m == nil {
			result, err := s.inmuebles.DeleteOne(ctx, asRead)
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
		result, err := s.inmuebles.ReplaceOne(ctx, asRead, bson.Raw(stored.appendBSON(nil)))
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

// Load is one transaction, sent in batches. MongoDB ends a transaction after
// transactionLifetimeLimitSeconds, a minute unless set: that bounds the size
// of what can be loaded at once.
func (s *Mongo) Load(ctx context.Context, b Batch) (l Loaded, err error) {
	if b.Once != nil {
		if err := s.expire(ctx); err != nil {
			return Loaded{}, err
		}
	}
	for range loadAttempts {
		l, err = s.load(ctx, b)
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

func (s *Mongo) load(ctx context.Context, b Batch) (l Loaded, err error) {
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
	send := func(rows []Row, first int) error { return s.write(tx, &b, rows, first, &l) }
	if b.plain() {
		send = func(rows []Row, first int) error { return s.insertAll(tx, &b, rows, first, &l) }
	}
	if err := b.load(send); err != nil {
		return l, err
	}
	if b.DryRun {
		return l, nil // EndSession ends the transaction
	}
	if err := s.last(tx, b.Once); err != nil {
		return l, err
	}
	return l, s.commit(tx, session)
}

// insertAll leaves it to the key's index to find duplicates.
func (s *Mongo) insertAll(tx mongo.SessionContext, b *Batch, rows []Row, first int, l *Loaded) error {
	docs := make([]any, len(rows))
	for i := range rows {
		if bad := rows[i].given.missing(1); bad != nil {
			return &BatchError{ID: rows[i].ID, Ordinal: first + i, Err: bad}
		}
		docs[i] = bson.Raw(rows[i].appendBSON(nil))
	}
	_, err := s.inmuebles.InsertMany(tx, docs)
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

// write reads what there is of a batch's _ids, decides, and writes. The
// transaction fails if another one changes any of it meanwhile.
func (s *Mongo) write(tx mongo.SessionContext, b *Batch, rows []Row, first int, l *Loaded) error {
	ids := make([]string, len(rows))
	for i := range rows {
		ids[i] = rows[i].ID
	}
	cursor, err := s.inmuebles.Find(tx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}},
		options.Find().SetBatchSize(importBatch+1))
	if err != nil {
		return mongoError("read", err)
	}
	have := make(map[string]*known, len(rows))
	for cursor.Next(tx) {
		m, id, err := parseBSON(cursor.Current)
		have[id] = &known{m: m, exists: true, stored: true, readable: err == nil}
	}
	if err := errors.Join(cursor.Err(), cursor.Close(tx)); err != nil {
		return mongoError("read", err)
	}
	if err := b.decide(rows, first, have, l); err != nil {
		return err
	}
	var fresh []any
	var changed []mongo.WriteModel
	for id, k := range have {
		switch {
		case !k.changed:
		case k.stored:
			changed = append(changed, mongo.NewReplaceOneModel().
				SetFilter(bson.D{{Key: "_id", Value: id}}).SetReplacement(bson.Raw(k.m.appendBSON(nil))))
		default:
			fresh = append(fresh, bson.Raw(k.m.appendBSON(nil)))
		}
	}
	if fresh != nil {
		if _, err := s.inmuebles.InsertMany(tx, fresh); err != nil {
			return mongoError("insert", err)
		}
	}
	if changed != nil {
		if _, err := s.inmuebles.BulkWrite(tx, changed, options.BulkWrite().SetOrdered(false)); err != nil {
			return mongoError("write", err)
		}
	}
	return nil
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
