-- +goose Up

-- Indexes that no statement of SQL can keep are made a little later, by the
-- server: of these rows they may not know, or not know enough. So a row is
-- here first and there later, and is found at every moment, whoever wrote it.
-- A trigger needs nothing that another program's SQLite might not have.
CREATE TABLE inmuebles_changed (
  seq INTEGER PRIMARY KEY
) STRICT;
INSERT INTO inmuebles_changed SELECT seq FROM inmuebles;

-- +goose StatementBegin
CREATE TRIGGER inmuebles_inserted AFTER INSERT ON inmuebles BEGIN
  INSERT INTO inmuebles_changed VALUES (new.seq) ON CONFLICT DO NOTHING;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER inmuebles_updated AFTER UPDATE OF seq, document ON inmuebles
WHEN old.document IS NOT new.document OR old.seq <> new.seq BEGIN
  INSERT INTO inmuebles_changed VALUES (old.seq) ON CONFLICT DO NOTHING;
  INSERT INTO inmuebles_changed VALUES (new.seq) ON CONFLICT DO NOTHING;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER inmuebles_deleted AFTER DELETE ON inmuebles BEGIN
  INSERT INTO inmuebles_changed VALUES (old.seq) ON CONFLICT DO NOTHING;
END;
-- +goose StatementEnd

-- Where the rows are, by longitude and latitude. Numbers are of 32 bits,
-- rounded so that none is left out.
CREATE VIRTUAL TABLE inmuebles_places USING rtree(seq, min_x, max_x, min_y, max_y);

-- +goose Down
DROP TABLE inmuebles_places;
DROP TRIGGER inmuebles_deleted;
DROP TRIGGER inmuebles_updated;
DROP TRIGGER inmuebles_inserted;
DROP TABLE inmuebles_changed;
