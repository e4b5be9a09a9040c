package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/mongo/readpref"
	"go.mongodb.org/mongo-driver/x/mongo/driver/topology"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// Mongo is a [Store] on the collection inmuebles of a replica set. Its client
// must write with majority concern, so that what was acknowledged outlives
// the primary. A change is one command on one document, atomic by itself.
//
// A document whose _id isn't text is none of ours, and is never met.
type Mongo struct {
	inmuebles *mongo.Collection
	once      *mongo.Collection // answers by idempotency key
	loads     *mongo.Collection // large loads that are under way, or whose process died
	undo      *mongo.Collection // documents as they were before a large load changed them
	settings  *mongo.Collection // what the servers on this database share
	imports   mongoJobs         // imports over HTTP

	swept  atomic.Int64 // Unix time in ns of the last look for dates without a key
	expiry atomic.Bool  // the index is there by which the server removes them

	many  int64 // documents: see manyDocuments
	sized atomic.Pointer[mongoSize]
}

var _ Store = (*Mongo)(nil)

// NewMongo makes a store on db. [Mongo.Prepare] makes its indexes.
func NewMongo(db *mongo.Database) *Mongo {
	return &Mongo{
		inmuebles: db.Collection("inmuebles"), once: db.Collection("idempotency"), settings: db.Collection("settings"),
		loads: db.Collection("loads"), undo: db.Collection("loads_undo"),
		imports: newMongoJobs(db), many: manyDocuments,
	}
}

// Get reads one document by its key.
func (s *Mongo) Get(ctx context.Context, id string) (Inmueble, error) {
	doc, err := s.inmuebles.FindOne(ctx, bson.D{{Key: "_id", Value: id}}).Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return Inmueble{}, ErrNotFound
	}
	if err != nil {
		return Inmueble{}, mongoError("read", err)
	}
	m, _, err := parseBSON(doc)
	if err != nil {
		return Inmueble{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return m, nil
}

// Insert adds one document.
func (s *Mongo) Insert(ctx context.Context, m Inmueble) error {
	_, err := s.inmuebles.InsertOne(ctx, bson.Raw(m.appendBSON(nil)))
	if mongo.IsDuplicateKeyError(err) {
		return fmt.Errorf("%w: %q", ErrDuplicate, m.ID)
	}
	return mongoError("insert", err)
}

// Replace is one findAndModify; only when it met no document does a second
// command tell why.
func (s *Mongo) Replace(ctx context.Context, m Inmueble, by By) (Inmueble, error) {
	if by.match.looks() {
		return s.change(ctx, m.ID, by, func(*Inmueble, bool) (*Inmueble, error) { return &m, nil })
	}
	doc, err := s.inmuebles.FindOneAndUpdate(ctx, byFilter(m.ID, by), replacePipeline(&m),
		options.FindOneAndUpdate().SetReturnDocument(options.After)).Raw()
	if errors.Is(err, mongo.ErrNoDocuments) {
		return Inmueble{}, s.whyNot(ctx, m.ID)
	}
	if err != nil {
		return Inmueble{}, mongoError("replace", err)
	}
	stored, _, err := parseBSON(doc)
	if err != nil {
		return Inmueble{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return stored, nil
}

// replacePipeline puts m's fields in place of the stored ones inside the
// database, so that nothing can come between reading what stays and writing.
// Where all fields are as m has them, and what the server set is readable,
// the document stays as it is. Else it becomes m, with its own owner and
// created_at as far as they are readable.
func replacePipeline(m *Inmueble) mongo.Pipeline {
	type D = bson.D
	type A = bson.A
	literal := func(v any) D { return D{{Key: "$literal", Value: v}} } // text may begin with $
	// Of any two values MongoDB compares the types first, so only dates lie
	// between two dates.
	isTime := func(path string) D {
		return D{{Key: "$and", Value: A{
			D{{Key: "$gte", Value: A{path, primitive.DateTime(minMilli)}}},
			D{{Key: "$lte", Value: A{path, primitive.DateTime(maxMilli)}}},
		}}}
	}
	typeIs := func(path string, types ...any) D {
		return D{{Key: "$in", Value: A{D{{Key: "$type", Value: path}}, A(types)}}}
	}
	missing := func(path string) D { return typeIs(path, "missing") }
	or := func(conditions ...any) D { return D{{Key: "$or", Value: A(conditions)}} }
	keptIf := func(condition D, path string) D { return D{{Key: "$cond", Value: A{condition, path, "$$REMOVE"}}} }

	same := A{
		typeIs("$"+nameOwner, "string", "missing"),
		or(missing("$"+nameCreatedAt), isTime("$"+nameCreatedAt)),
		or(missing("$"+nameUpdatedAt), isTime("$"+nameUpdatedAt)),
	}
	fresh := D{{Key: "_id", Value: literal(m.ID)}}
	for i := range fields[1:] {
		f := &fields[1+i]
		path := "$" + f.name
		if f.atDefault(m) {
			same = append(same, missing(path))
			continue
		}
		value := f.value(m)
		fresh = append(fresh, bson.E{Key: f.name, Value: literal(value)})
		// 1 equals 1.0, as it does in JSON, and true equals neither.
		same = append(same, D{{Key: "$eq", Value: A{path, literal(value)}}})
	}
	for _, k := range m.dateKeys() {
		fresh = append(fresh, bson.E{Key: k[0], Value: literal(k[1])})
	}
	fresh = append(fresh,
		bson.E{Key: nameOwner, Value: keptIf(typeIs("$"+nameOwner, "string"), "$"+nameOwner)},
		bson.E{Key: nameCreatedAt, Value: keptIf(isTime("$"+nameCreatedAt), "$"+nameCreatedAt)},
		bson.E{Key: nameUpdatedAt, Value: primitive.NewDateTimeFromTime(m.UpdatedAt)},
		bson.E{Key: query.WordsPath, Value: literal(query.Words(m.Title, m.Description))})
	return mongo.Pipeline{D{{Key: "$replaceWith", Value: D{{Key: "$cond", Value: A{
		D{{Key: "$and", Value: same}}, "$$ROOT", fresh,
	}}}}}}
}

// value is the field's value as the driver writes it.
func (f *field) value(m *Inmueble) any {
	switch p := f.at(m).(type) {
	case *string:
		return *p
	case *int32:
		return *p
	case **int32:
		return **p
	case *bool:
		return *p
	case *float64:
		return *p
	}
	panic("resourceserver: a field of a type that has no BSON: " + f.name)
}

// Delete is one command, with the same second one.
func (s *Mongo) Delete(ctx context.Context, id string, by By) error {
	if by.match.looks() {
		_, err := s.change(ctx, id, by, func(*Inmueble, bool) (*Inmueble, error) { return nil, nil })
		return err
	}
	result, err := s.inmuebles.DeleteOne(ctx, byFilter(id, by))
	if err != nil {
		return mongoError("delete", err)
	}
	if result.DeletedCount == 0 {
		return s.whyNot(ctx, id)
	}
	return nil
}

// byFilter finds a document that by may change. A missing owner equals no
// text.
func byFilter(id string, by By) bson.D {
	filter := bson.D{{Key: "_id", Value: id}}
	if by.anyone {
		return filter
	}
	return append(filter, bson.E{Key: nameOwner, Value: bson.D{{Key: "$eq", Value: by.sub}, {Key: "$gt", Value: ""}}})
}

// whyNot tells why a change met no document. It may have come or gone since;
// either answer was true at some moment of the request.
func (s *Mongo) whyNot(ctx context.Context, id string) error {
	err := s.inmuebles.FindOne(ctx, bson.D{{Key: "_id", Value: id}},
		options.FindOne().SetProjection(bson.D{{Key: "_id", Value: 1}})).Err()
	switch {
	case err == nil:
		return ErrNotOwner
	case errors.Is(err, mongo.ErrNoDocuments):
		return ErrNotFound
	}
	return mongoError("look for", err)
}

// commitAttempts bounds how often commit asks; the driver retries each once.
const commitAttempts = 3

// commit asks again while the server leaves it open whether it has committed;
// committing twice is safe.
func (s *Mongo) commit(ctx context.Context, session mongo.Session) (err error) {
	for range commitAttempts {
		err = session.CommitTransaction(ctx)
		labeled, ok := errors.AsType[mongo.LabeledError](err)
		if !ok || !labeled.HasErrorLabel("UnknownTransactionCommitResult") || ctx.Err() != nil {
			break
		}
	}
	return mongoError("commit", err)
}

// takenAt tells which document of a batch met an _id that exists.
func takenAt(err error) (int, bool) {
	bulk, ok := errors.AsType[mongo.BulkWriteException](err)
	if !ok || !mongo.IsDuplicateKeyError(err) || len(bulk.WriteErrors) == 0 {
		return 0, false
	}
	return bulk.WriteErrors[0].Index, true
}

// Check asks the primary.
func (s *Mongo) Check(ctx context.Context) error {
	return mongoError("check", s.inmuebles.Database().Client().Ping(ctx, readpref.Primary()))
}

// mongoError says what was being done and puts a lost or busy server into the
// contract's words. nil stays nil.
func mongoError(doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("resourceserver: %s: %w", doing, err)
	}
	lost := mongo.IsNetworkError(err) || mongo.IsTimeout(err)
	if labeled, ok := errors.AsType[mongo.LabeledError](err); ok {
		lost = lost || labeled.HasErrorLabel("TransientTransactionError") || labeled.HasErrorLabel("RetryableWriteError")
	}
	if _, ok := errors.AsType[topology.ServerSelectionError](err); ok {
		lost = true
	}
	if lost {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, doing, err)
	}
	return fmt.Errorf("resourceserver: %s: %w", doing, err)
}
