//go:build unix

package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/gorilla/mux"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo/options"
	"go.mongodb.org/mongo-driver/x/bsonx/bsoncore"
)

// newestFirst is an order that the indexes have.
var newestFirst = bson.D{{Key: "date_key", Value: -1}, {Key: "_id", Value: 1}}

// withoutWords leaves out what no answer has.
var withoutWords = bson.D{{Key: "_words", Value: 0}}

func (f *floor) get(w http.ResponseWriter, r *http.Request) error {
	document, err := f.inmuebles.FindOne(r.Context(), bson.D{{Key: "_id", Value: mux.Vars(r)["id"]}}, options.FindOne().SetProjection(withoutWords)).Raw()
	if err != nil {
		return err
	}
	body, err := appendJSON(nil, document)
	if err != nil {
		return err
	}
	send(w, http.StatusOK, body)
	return nil
}

func (f *floor) list(w http.ResponseWriter, r *http.Request) error { return f.page(w, r, bson.D{}) }

func (f *floor) filter(w http.ResponseWriter, r *http.Request) error {
	return f.page(w, r, bson.D{
		{Key: "listing_type", Value: 1},
		{Key: "property_type", Value: bson.D{{Key: "$in", Value: bson.A{1, 2}}}},
		{Key: "start_month", Value: bson.D{{Key: "$gte", Value: 3}}},
	})
}

// page sends the first 50.
func (f *floor) page(w http.ResponseWriter, r *http.Request, filter bson.D) error {
	o := options.Find().SetProjection(withoutWords).SetSort(newestFirst).SetLimit(50).SetBatchSize(51)
	cursor, err := f.inmuebles.Find(r.Context(), filter, o)
	if err != nil {
		return err
	}
	defer func() { _ = cursor.Close(r.Context()) }()
	body := append(make([]byte, 0, 48<<10), '[')
	for cursor.Next(r.Context()) {
		if len(body) > 1 {
			body = append(body, ',')
		}
		if body, err = appendJSON(body, cursor.Current); err != nil {
			return err
		}
	}
	send(w, http.StatusOK, append(body, ']'))
	return cursor.Err()
}

func (f *floor) export(w http.ResponseWriter, r *http.Request) error {
	cursor, err := f.inmuebles.Find(r.Context(), bson.D{}, options.Find().SetProjection(withoutWords).SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return err
	}
	defer func() { _ = cursor.Close(r.Context()) }()
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	for cursor.Next(r.Context()) {
		if line, err = appendJSON(line[:0], cursor.Current); err != nil {
			return err
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return cursor.Err()
}

// property is a body as encoding/json and the driver take it.
type property struct {
	ID               string             `json:"_id" bson:"_id"`
	OtherID          string             `json:"other_id" bson:"other_id"`
	BuildStatus      int32              `json:"build_status" bson:"build_status"`
	IsActive         bool               `json:"is_active" bson:"is_active"`
	StartMonth       int32              `json:"start_month" bson:"start_month"`
	ConstructionType *int32             `json:"construction_type" bson:"construction_type"`
	DateDiff         *int32             `json:"date_diff" bson:"date_diff"`
	Description      string             `json:"description" bson:"description"`
	DateIn           string             `json:"date_in" bson:"date_in"`
	PropertyType     int32              `json:"property_type" bson:"property_type"`
	EndWeek          int32              `json:"end_week" bson:"end_week"`
	TypologyType     int32              `json:"typology_type" bson:"typology_type"`
	XCoord           float64            `json:"x_coord" bson:"x_coord"`
	YCoord           float64            `json:"y_coord" bson:"y_coord"`
	BoundaryID       *int32             `json:"boundary_id" bson:"boundary_id"`
	Title            string             `json:"title" bson:"title"`
	ListingType      int32              `json:"listing_type" bson:"listing_type"`
	Date             string             `json:"date" bson:"date"`
	DateKey          string             `json:"-" bson:"date_key"`
	DateInKey        string             `json:"-" bson:"date_in_key"`
	Owner            string             `json:"-" bson:"owner"`
	CreatedAt        primitive.DateTime `json:"-" bson:"created_at"`
	UpdatedAt        primitive.DateTime `json:"-" bson:"updated_at"`
}

// marshal makes a document of one that came in.
func (p *property) marshal() (bson.Raw, error) {
	if p.ID == "" {
		p.ID = primitive.NewObjectID().Hex()
	}
	p.Owner, p.CreatedAt = "floor", primitive.NewDateTimeFromTime(time.Now())
	p.UpdatedAt, p.DateKey, p.DateInKey = p.CreatedAt, p.Date, p.DateIn
	return bson.Marshal(p)
}

func (f *floor) post(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var p property
	if err := json.Unmarshal(body, &p); err != nil {
		return err
	}
	document, err := p.marshal()
	if err != nil {
		return err
	}
	if _, err := f.inmuebles.InsertOne(r.Context(), document); err != nil {
		return err
	}
	answer, err := appendJSON(nil, document)
	if err != nil {
		return err
	}
	send(w, http.StatusCreated, answer)
	return nil
}

// load stores the lines of a body, a thousand at a time.
func (f *floor) load(w http.ResponseWriter, r *http.Request) error {
	var batch []any
	stored := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		_, err := f.inmuebles.InsertMany(r.Context(), batch)
		stored += len(batch)
		batch = batch[:0]
		return err
	}
	for lines := json.NewDecoder(r.Body); ; {
		var p property
		if err := lines.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		document, err := p.marshal()
		if err != nil {
			return err
		}
		if batch = append(batch, document); len(batch) == 1000 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	send(w, http.StatusOK, fmt.Appendf(nil, `{"stored":%d}`, stored))
	return nil
}

// appendJSON adds a document's elements as they stand.
func appendJSON(b []byte, document bson.Raw) ([]byte, error) {
	_, rest, _ := bsoncore.ReadLength(document)
	var err error
	for next := byte('{'); len(rest) > 1; next = ',' {
		e, behind, ok := bsoncore.ReadElement(rest)
		if !ok {
			return nil, fmt.Errorf("broken BSON")
		}
		rest = behind
		b = append(append(append(b, next, '"'), e.KeyBytes()...), `":`...)
		switch v := e.Value(); v.Type {
		case bson.TypeString:
			b, err = jsontext.AppendQuote(b, v.Data[4:len(v.Data)-1])
		case bson.TypeInt32:
			b = strconv.AppendInt(b, int64(v.Int32()), 10)
		case bson.TypeInt64:
			b = strconv.AppendInt(b, v.Int64(), 10)
		case bson.TypeDouble:
			b = strconv.AppendFloat(b, v.Double(), 'f', -1, 64)
		case bson.TypeBoolean:
			b = strconv.AppendBool(b, v.Boolean())
		case bson.TypeDateTime:
			b = append(time.UnixMilli(v.DateTime()).UTC().AppendFormat(append(b, '"'), "2006-01-02T15:04:05.000Z"), '"')
		case bson.TypeObjectID:
			b = append(hex.AppendEncode(append(b, '"'), v.Data), '"')
		case bson.TypeNull:
			b = append(b, "null"...)
		default:
			err = fmt.Errorf("an element of type %v", v.Type)
		}
		if err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}
