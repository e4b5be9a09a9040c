package resourceserver

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/event"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"

	"github.com/urbandata/urbandata/test/engines"
)

// TestMongoForeign: documents as the original and other programs store them.
func TestMongoForeign(t *testing.T) {
	db := engines.Mongo(t)
	s := NewMongo(db)
	original := bson.M{
		"_id": "old", "other_id": int64(169), "build_status": 1.0, "is_active": true, "start_month": int64(2),
		"construction_type": nil, "title": nil, "date_in": "2021-03-01", "property_type": 6, "end_week": 7, "typology_type": 8,
		"x_coord": int32(-3), "y_coord": 40.5, "listing_type": 10, "date": "2021-03-02", "surface": 80,
	}
	for _, doc := range []any{
		original,
		bson.M{"_id": primitive.NewObjectID(), "other_id": "not ours"},
		bson.M{"_id": 7, "other_id": "not ours"},
	} {
		if _, err := db.Collection("inmuebles").InsertOne(t.Context(), doc); err != nil {
			t.Fatal(err)
		}
	}
	want := sample("old")
	want.OtherID, want.XCoord, want.YCoord = "169", -3, 40.5
	want.ConstructionType, want.BoundaryID, want.DateDiff, want.Description, want.Title = nil, nil, 0, "", ""
	want.Owner, want.CreatedAt, want.UpdatedAt = "", time.Time{}, time.Time{}
	got, err := s.Get(t.Context(), "old")
	must(t, err)
	wantSame(t, got, want)
	ids, unreadable := walk(t, s, 1)
	wantIDs(t, ids, "old")
	wantIDs(t, unreadable)

	// What the server itself set may be spoiled too, and is mended.
	for name, value := range map[string]any{nameOwner: 5, nameCreatedAt: "yesterday", nameUpdatedAt: primitive.DateTime(math.MaxInt64)} {
		doc := bson.M{"_id": "bad " + name}
		for k, v := range original {
			if k != "_id" {
				doc[k] = v
			}
		}
		doc[name] = value
		if _, err := db.Collection("inmuebles").InsertOne(t.Context(), doc); err != nil {
			t.Fatal(err)
		}
		_, err := s.Get(t.Context(), "bad "+name)
		wantErr(t, err, ErrUnreadable)
		m := want
		m.ID, m.UpdatedAt = "bad "+name, noon
		_, err = s.Replace(t.Context(), m, Admin)
		must(t, err)
		got, err := s.Get(t.Context(), m.ID)
		must(t, err)
		wantSame(t, got, m)
	}
}

// TestMongoStored: native types, and nothing for null and defaults.
func TestMongoStored(t *testing.T) {
	db := engines.Mongo(t)
	m := sample("a")
	m.ConstructionType, m.DateDiff, m.Description, m.BoundaryID, m.Title = nil, 0, "", nil, ""
	must(t, NewMongo(db).Insert(t.Context(), m))
	var got bson.D
	must(t, db.Collection("inmuebles").FindOne(t.Context(), bson.D{}).Decode(&got))
	want := bson.D{
		{Key: "_id", Value: "a"},
		{Key: "other_id", Value: "A1"},
		{Key: "build_status", Value: int32(1)},
		{Key: "is_active", Value: true},
		{Key: "start_month", Value: int32(2)},
		{Key: "date_in", Value: "2021-03-01"},
		{Key: "property_type", Value: int32(6)},
		{Key: "end_week", Value: int32(7)},
		{Key: "typology_type", Value: int32(8)},
		{Key: "x_coord", Value: -3.7038},
		{Key: "y_coord", Value: 40.4168},
		{Key: "listing_type", Value: int32(10)},
		{Key: "date", Value: "2021-03-02"},
		{Key: "date_key", Value: "2021-03-02"},
		{Key: "date_in_key", Value: "2021-03-01"},
		{Key: "owner", Value: "alice"},
		{Key: "created_at", Value: primitive.NewDateTimeFromTime(dawn)},
		{Key: "updated_at", Value: primitive.NewDateTimeFromTime(dawn)},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("stored %v\nwant   %v", got, want)
	}
}

// TestMongoOneTrip: a page is one command, however long.
func TestMongoOneTrip(t *testing.T) {
	var mu sync.Mutex // guards commands
	var commands []string
	rawURL := engines.MongoURL(t)
	client, err := mongo.Connect(t.Context(), options.Client().ApplyURI(rawURL).SetMonitor(&event.CommandMonitor{
		Started: func(_ context.Context, e *event.CommandStartedEvent) {
			mu.Lock()
			defer mu.Unlock()
			commands = append(commands, e.CommandName)
		},
	}))
	must(t, err)
	t.Cleanup(func() { _ = client.Disconnect(context.WithoutCancel(t.Context())) })
	u, err := url.Parse(rawURL)
	must(t, err)
	s := NewMongo(client.Database(strings.Trim(u.Path, "/")))
	_, err = importInto(t.Context(), s, docsOf(1200, nil))
	must(t, err)
	for _, limit := range []int{1, 100, 101, 1000, 1200} {
		mu.Lock()
		commands = nil
		mu.Unlock()
		page, err := list(t.Context(), s, "", limit)
		must(t, err)
		mu.Lock()
		if len(page.Items) != limit || !slices.Equal(commands, []string{"find"}) {
			t.Errorf("a page of %d: %d items by %q", limit, len(page.Items), commands)
		}
		mu.Unlock()
	}
}
