package resourceserver

import (
	"context"
	"errors"
	"fmt"
	"math"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

var _ Checker = (*Mongo)(nil)

// Codes of MongoDB's errors.
const (
	codeUnauthorized    = 13
	codeInvalidDocument = 121
)

// mongoValidator is true of what parseBSON takes.
func mongoValidator() bson.D {
	type D = bson.D
	type A = bson.A
	properties, required := D{}, A{}
	for i := range fields {
		f := &fields[i]
		if f.required {
			required = append(required, f.name)
		}
		properties = append(properties, bson.E{Key: f.name, Value: f.mongoRule()})
	}
	for _, at := range []string{nameCreatedAt, nameUpdatedAt} {
		properties = append(properties, bson.E{Key: at, Value: D{{Key: "bsonType", Value: "date"}}})
	}
	properties = append(properties, bson.E{Key: nameOwner, Value: D{{Key: "bsonType", Value: "string"}}})
	all := A{D{{Key: "$jsonSchema", Value: D{
		{Key: "bsonType", Value: "object"}, {Key: "required", Value: required}, {Key: "properties", Value: properties},
	}}}}
	for _, at := range []string{nameCreatedAt, nameUpdatedAt} { // a schema has no range of dates
		all = append(all, D{{Key: "$or", Value: A{
			D{{Key: at, Value: D{{Key: "$exists", Value: false}}}},
			D{{Key: at, Value: D{{Key: "$gte", Value: primitive.DateTime(minMilli)}, {Key: "$lte", Value: primitive.DateTime(maxMilli)}}}},
		}}})
	}
	return D{{Key: "$and", Value: all}}
}

// mongoRule is the field's part of the schema.
func (f *field) mongoRule() bson.D {
	type D = bson.D
	type A = bson.A
	types := func(names ...any) bson.E {
		if !f.required { // others store null for what isn't there
			names = append(names, "null")
		}
		return bson.E{Key: "bsonType", Value: A(names)}
	}
	between := func(least, most float64) D {
		return D{{Key: "minimum", Value: least}, {Key: "maximum", Value: most}}
	}
	whole := bson.E{Key: "multipleOf", Value: int32(1)}
	// Every character but one; the whole text, whatever line ends it has.
	text := D{types("string"), {Key: "maxLength", Value: int64(f.bound)}, {Key: "pattern", Value: `\A[^\x00]*\z`}}
	switch f.rule() {
	case ruleBool:
		return D{types("bool")}
	case ruleNumber:
		return append(D{types("int", "long", "double")}, between(-float64(f.bound), float64(f.bound))...)
	case ruleInteger, ruleNullable:
		return append(D{types("int", "long", "double"), whole}, between(math.MinInt32, math.MaxInt32)...)
	case ruleDigits:
		return D{{Key: "anyOf", Value: A{
			text,
			D{{Key: "bsonType", Value: A{"int", "long"}}},
			append(D{{Key: "bsonType", Value: "double"}, whole}, between(-1<<53, 1<<53)...),
		}}}
	}
	if f.name == "_id" {
		text = append(text, bson.E{Key: "minLength", Value: int64(1)}, bson.E{Key: "not", Value: D{{Key: "enum", Value: A{".", ".."}}}})
	}
	return text
}

// SetChecks sets the collection's validator.
func (s *Mongo) SetChecks(ctx context.Context, c Checks) error {
	command := bson.D{{Key: "collMod", Value: s.inmuebles.Name()}}
	if c == ChecksOff {
		command = append(command, bson.E{Key: "validator", Value: bson.D{}}, bson.E{Key: "validationLevel", Value: "off"})
	} else {
		command = append(command, bson.E{Key: "validator", Value: mongoValidator()},
			bson.E{Key: "validationLevel", Value: "moderate"}, bson.E{Key: "validationAction", Value: string(c)})
	}
	err := s.inmuebles.Database().RunCommand(ctx, command).Err()
	if failed, ok := errors.AsType[mongo.CommandError](err); ok && failed.Code == codeUnauthorized {
		return fmt.Errorf("%w: it needs the role dbAdmin", ErrChecks)
	}
	return mongoError("set the checks", err)
}

// CheckStatus reads the collection's options, and all of it.
func (s *Mongo) CheckStatus(ctx context.Context) (CheckStatus, error) {
	found, err := s.inmuebles.Database().ListCollectionSpecifications(ctx, bson.D{{Key: "name", Value: s.inmuebles.Name()}})
	if err != nil {
		return CheckStatus{}, mongoError("look at the checks", err)
	}
	is := CheckStatus{Checks: ChecksOff}
	for _, c := range found {
		var set struct {
			Validator bson.Raw `bson:"validator"`
			Level     string   `bson:"validationLevel"`
			Action    string   `bson:"validationAction"`
		}
		if err := bson.Unmarshal(c.Options, &set); err != nil {
			return CheckStatus{}, mongoError("look at the checks", err)
		}
		if set.Level == "off" || len(set.Validator) <= 5 { // that of an empty document
			continue
		}
		ours, err := bson.Marshal(mongoValidator())
		if err != nil {
			return CheckStatus{}, fmt.Errorf("resourceserver: look at the checks: %w", err)
		}
		is.Checks, is.Other = Checks(set.Action), string(ours) != string(set.Validator) || set.Level != "moderate"
	}
	n, err := s.inmuebles.CountDocuments(ctx, bson.D{{Key: "$nor", Value: bson.A{mongoValidator()}}})
	is.Invalid = int(n)
	return is, mongoError("count what isn't valid", err)
}

// putBack replaces a document by what it was before, which may be none that
// the database's checks let in.
func (s *Mongo) putBack(ctx context.Context, filter bson.D, was bson.Raw) error {
	_, err := s.inmuebles.ReplaceOne(ctx, filter, was)
	if failed, ok := errors.AsType[mongo.ServerError](err); ok && failed.HasErrorCode(codeInvalidDocument) {
		_, err = s.inmuebles.ReplaceOne(ctx, filter, was, options.Replace().SetBypassDocumentValidation(true))
	}
	return err
}
