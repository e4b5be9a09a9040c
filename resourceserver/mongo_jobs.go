package resourceserver

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/go-json-experiment/json"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/bson/primitive"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

var _ JobStore = (*Mongo)(nil)

// mongoJobs are the collections of imports over HTTP. The signs of life are
// apart from the jobs: a transaction that stores what a job has come to would
// else conflict with one.
//
// Files are documents of up to jobPart bytes. It could be GridFS, but the
// driver's takes 16 MiB of memory for each upload.
type mongoJobs struct {
	jobs, beats, parts *mongo.Collection
}

func newMongoJobs(db *mongo.Database) mongoJobs {
	return mongoJobs{db.Collection("imports"), db.Collection("imports_beats"), db.Collection("imports_parts")}
}

// prepare makes the indexes.
func (c *mongoJobs) prepare(ctx context.Context) error {
	_, err := c.jobs.Indexes().CreateMany(ctx, []mongo.IndexModel{
		{Keys: bson.D{{Key: "key", Value: 1}}, Options: options.Index().SetUnique(true).SetSparse(true)},
		{Keys: bson.D{{Key: "owner", Value: 1}, {Key: "_id", Value: 1}}},
		{Keys: bson.D{{Key: "state", Value: 1}, {Key: "_id", Value: 1}}},
		{Keys: bson.D{{Key: "finished_at", Value: 1}}, Options: options.Index().SetSparse(true)},
	})
	if err == nil {
		_, err = c.parts.Indexes().CreateOne(ctx, mongo.IndexModel{
			Keys: bson.D{{Key: "job", Value: 1}, {Key: "file", Value: 1}, {Key: "at", Value: 1}}, Options: options.Index().SetUnique(true),
		})
	}
	return mongoError("make the indexes of imports", err)
}

// storedJob is a document of the collection imports.
type storedJob struct {
	ID       string              `bson:"_id"`
	Owner    string              `bson:"owner"`
	Key      string              `bson:"key,omitempty"`
	State    JobState            `bson:"state"`
	Version  int64               `bson:"version"`
	Finished *primitive.DateTime `bson:"finished_at,omitempty"`
	Kept     bool                `bson:"kept,omitempty"` // the upload is still there
	Document string              `bson:"document"`
}

func stored(j *Job, version int64) storedJob {
	s := storedJob{ID: j.ID, Owner: j.Owner, Key: j.Key, State: j.State, Version: version, Kept: j.Kept, Document: string(j.marshal())}
	if !j.Finished.IsZero() {
		at := primitive.NewDateTimeFromTime(j.Finished)
		s.Finished = &at
	}
	return s
}

// read reads the jobs that a query finds.
func (c *mongoJobs) read(ctx context.Context, filter bson.D, opts ...*options.FindOptions) ([]Job, error) {
	cursor, err := c.jobs.Find(ctx, filter, opts...)
	if err != nil {
		return nil, mongoError("read jobs", err)
	}
	var found []storedJob
	if err := cursor.All(ctx, &found); err != nil {
		return nil, mongoError("read jobs", err)
	}
	jobs := make([]Job, len(found))
	for i, s := range found {
		if jobs[i], err = parseJob([]byte(s.Document), s.Version); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

// unfinished are the states of jobs that aren't final.
var unfinished = bson.D{{Key: "$in", Value: bson.A{JobUploading, JobQueued, JobRunning}}}

// InsertJob enters the job and then counts: of many that come at once too many
// may be refused, but never too few.
func (s *Mongo) InsertJob(ctx context.Context, j Job, most JobLimits) error {
	if _, err := s.BeatJob(ctx, j.ID, JobProgress{}); err != nil {
		return err
	}
	err := s.enterJob(ctx, &j, most)
	if err != nil {
		_, _ = s.imports.beats.DeleteOne(ctx, bson.D{{Key: "_id", Value: j.ID}}) // it is small, and harms nobody
	}
	return err
}

func (s *Mongo) enterJob(ctx context.Context, j *Job, most JobLimits) error {
	_, err := s.imports.jobs.InsertOne(ctx, stored(j, 1))
	if mongo.IsDuplicateKeyError(err) {
		old, err := s.imports.read(ctx, bson.D{{Key: "key", Value: j.Key}})
		if err == nil && len(old) == 0 { // it has gone meanwhile
			return ErrUnavailable
		}
		if err != nil {
			return err
		}
		return &JobKeyError{old[0]}
	}
	if err != nil {
		return mongoError("enter a job", err)
	}
	for _, bound := range []struct {
		filter bson.D
		most   int
		err    error
	}{
		{bson.D{{Key: "owner", Value: j.Owner}, {Key: "state", Value: unfinished}}, most.PerOwner, ErrOwnersJobs},
		{bson.D{{Key: "state", Value: unfinished}}, most.Total, ErrAllJobs},
	} {
		n, err := s.imports.jobs.CountDocuments(ctx, bound.filter)
		if err = mongoError("count the jobs", err); err == nil && n > int64(bound.most) {
			err = bound.err
		}
		if err != nil {
			_, again := s.imports.jobs.DeleteOne(ctx, bson.D{{Key: "_id", Value: j.ID}})
			return errors.Join(err, mongoError("remove a job", again))
		}
	}
	return nil
}

// Job reads one job.
func (s *Mongo) Job(ctx context.Context, id string) (Job, error) {
	jobs, err := s.imports.read(ctx, bson.D{{Key: "_id", Value: id}})
	if err == nil && len(jobs) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Job{}, err
	}
	return jobs[0], nil
}

// Jobs reads a page.
func (s *Mongo) Jobs(ctx context.Context, owner, before string, most int) ([]Job, error) {
	filter := bson.D{}
	if owner != "" {
		filter = append(filter, bson.E{Key: "owner", Value: owner})
	}
	if before != "" {
		filter = append(filter, bson.E{Key: "_id", Value: bson.D{{Key: "$lt", Value: before}}})
	}
	return s.imports.read(ctx, filter, options.Find().SetSort(bson.D{{Key: "_id", Value: -1}}).SetLimit(int64(most)))
}

// SwapJob is one command.
func (s *Mongo) SwapJob(ctx context.Context, j *Job) error {
	if err := s.swapJob(ctx, j); err != nil {
		return err
	}
	j.Version++
	return nil
}

func (s *Mongo) swapJob(ctx context.Context, j *Job) error {
	result, err := s.imports.jobs.ReplaceOne(ctx, bson.D{{Key: "_id", Value: j.ID}, {Key: "version", Value: j.Version}}, stored(j, j.Version+1))
	if err == nil && result.MatchedCount == 0 {
		return ErrJobChanged
	}
	return mongoError("change a job", err)
}

// step stores what a job has come to. ctx is that of the transaction of its
// rows, or that in which a large load becomes complete.
func (s *Mongo) step(ctx context.Context, b *Batch, l Loaded) error {
	if b.Step == nil {
		return nil
	}
	j, err := b.Step(l)
	if err != nil {
		return err
	}
	return s.swapJob(ctx, &j)
}

// DeleteJob is one command, and the sign of life.
func (s *Mongo) DeleteJob(ctx context.Context, j *Job) error {
	result, err := s.imports.jobs.DeleteOne(ctx, bson.D{{Key: "_id", Value: j.ID}, {Key: "version", Value: j.Version}})
	if err == nil && result.DeletedCount == 0 {
		return ErrJobChanged
	}
	if err == nil {
		_, err = s.imports.beats.DeleteOne(ctx, bson.D{{Key: "_id", Value: j.ID}})
	}
	return mongoError("remove a job", err)
}

// BeatJob writes by the server's clock.
func (s *Mongo) BeatJob(ctx context.Context, id string, p JobProgress) (int64, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return 0, err
	}
	_, err = s.imports.beats.UpdateOne(ctx, bson.D{{Key: "_id", Value: id}}, bson.D{
		{Key: "$currentDate", Value: bson.D{{Key: "alive", Value: true}}},
		{Key: "$set", Value: bson.D{{Key: "progress", Value: string(text)}}},
	}, options.Update().SetUpsert(true))
	if err != nil {
		return 0, mongoError("give a sign of life", err)
	}
	j, err := s.Job(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return j.Version, err
}

// Progress reads the last sign of life.
func (s *Mongo) Progress(ctx context.Context, id string) (p JobProgress, err error) {
	var beat struct {
		Progress string `bson:"progress"`
	}
	err = s.imports.beats.FindOne(ctx, bson.D{{Key: "_id", Value: id}}).Decode(&beat)
	switch {
	case errors.Is(err, mongo.ErrNoDocuments):
		return JobProgress{}, nil
	case err != nil:
		return JobProgress{}, mongoError("read a sign of life", err)
	}
	return p, json.Unmarshal([]byte(beat.Progress), &p)
}

// DueJobs asks for the signs of life of jobs that somebody works on.
func (s *Mongo) DueJobs(ctx context.Context) ([]Job, error) {
	jobs, err := s.imports.read(ctx, bson.D{{Key: "state", Value: unfinished}}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, err
	}
	var held bson.A
	for i := range jobs {
		if jobs[i].State != JobQueued {
			held = append(held, jobs[i].ID)
		}
	}
	living := map[string]bool{}
	if held != nil {
		cursor, err := s.imports.beats.Find(ctx, bson.D{
			{Key: "_id", Value: bson.D{{Key: "$in", Value: held}}},
			{Key: "$expr", Value: bson.D{{Key: "$lt", Value: bson.A{
				bson.D{{Key: "$subtract", Value: bson.A{"$$NOW", "$alive"}}}, jobLease.Milliseconds(),
			}}}},
		})
		if err != nil {
			return nil, mongoError("look for signs of life", err)
		}
		var beats []struct {
			ID string `bson:"_id"`
		}
		if err := cursor.All(ctx, &beats); err != nil {
			return nil, mongoError("look for signs of life", err)
		}
		for _, b := range beats {
			living[b.ID] = true
		}
	}
	due := jobs[:0]
	for _, j := range jobs {
		if !living[j.ID] {
			due = append(due, j)
		}
	}
	return due, nil
}

// OldJobs reads those that are to be tidied up.
func (s *Mongo) OldJobs(ctx context.Context, before time.Time, most int) ([]Job, error) {
	ended := func(v any) bson.E { return bson.E{Key: "finished_at", Value: v} }
	return s.imports.read(ctx, bson.D{{Key: "$or", Value: bson.A{
		bson.D{ended(bson.D{{Key: "$lt", Value: primitive.NewDateTimeFromTime(before)}})},
		bson.D{ended(bson.D{{Key: "$gt", Value: primitive.DateTime(0)}}), {Key: "kept", Value: true}},
	}}}, options.Find().SetLimit(int64(most)))
}

// WritePart is one command; made twice it does the same.
func (s *Mongo) WritePart(ctx context.Context, id string, f JobFile, at int64, data []byte) error {
	_, err := s.imports.parts.UpdateOne(ctx, partAt(id, f, at), bson.D{{Key: "$set", Value: bson.D{{Key: "data", Value: data}}}}, options.Update().SetUpsert(true))
	return mongoError("write a part of a file", err)
}

func partAt(id string, f JobFile, at any) bson.D {
	return bson.D{{Key: "job", Value: id}, {Key: "file", Value: f}, {Key: "at", Value: at}}
}

// ReadPart reads one document.
func (s *Mongo) ReadPart(ctx context.Context, id string, f JobFile, at int64) ([]byte, error) {
	var part struct {
		Data []byte `bson:"data"`
	}
	err := s.imports.parts.FindOne(ctx, partAt(id, f, at)).Decode(&part)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, io.EOF
	}
	return part.Data, mongoError("read a part of a file", err)
}

// CutFile removes the parts from size on.
func (s *Mongo) CutFile(ctx context.Context, id string, f JobFile, size int64) error {
	_, err := s.imports.parts.DeleteMany(ctx, partAt(id, f, bson.D{{Key: "$gte", Value: size}}))
	return mongoError("cut a file", err)
}
