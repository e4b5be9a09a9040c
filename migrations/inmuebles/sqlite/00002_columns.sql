-- +goose Up

-- What filters and orders look at, beside the document that holds it. A
-- virtual column is computed when it is read, so it takes no room but in the
-- indexes, and is right whoever wrote the document. Types are ANY: a spoiled
-- document is one that readers leave out, not one that fails a statement.
ALTER TABLE inmuebles ADD COLUMN other_id          ANY AS (document ->> '$.other_id') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN build_status      ANY AS (document ->> '$.build_status') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN is_active         ANY AS (document ->> '$.is_active') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN start_month       ANY AS (document ->> '$.start_month') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN construction_type ANY AS (document ->> '$.construction_type') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN date_diff         ANY AS (coalesce(document ->> '$.date_diff', 0)) VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN description       ANY AS (coalesce(document ->> '$.description', '')) VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN date_in           ANY AS (document ->> '$.date_in') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN property_type     ANY AS (document ->> '$.property_type') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN end_week          ANY AS (document ->> '$.end_week') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN typology_type     ANY AS (document ->> '$.typology_type') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN x_coord           ANY AS (document ->> '$.x_coord') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN y_coord           ANY AS (document ->> '$.y_coord') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN boundary_id       ANY AS (document ->> '$.boundary_id') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN title             ANY AS (coalesce(document ->> '$.title', '')) VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN listing_type      ANY AS (document ->> '$.listing_type') VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN date              ANY AS (document ->> '$.date') VIRTUAL;

-- What a date is compared by. The document has it where it isn't the date
-- itself: for a date-time with a zone, for one.
ALTER TABLE inmuebles ADD COLUMN date_key    ANY AS (coalesce(document ->> '$.date_key', document ->> '$.date')) VIRTUAL;
ALTER TABLE inmuebles ADD COLUMN date_in_key ANY AS (coalesce(document ->> '$.date_in_key', document ->> '$.date_in')) VIRTUAL;

-- Documents that may still lack a key, which the server looks through when it
-- starts: a day of ten characters is its own key.
CREATE INDEX inmuebles_unkeyed ON inmuebles (seq)
  WHERE length(document ->> '$.date') <> 10 AND document ->> '$.date_key' IS NULL
     OR length(document ->> '$.date_in') <> 10 AND document ->> '$.date_in_key' IS NULL;

-- Each index serves an order, alone or behind one field with a single value:
-- docs/api.md lists the queries, and a test asks for the plan of each.
CREATE INDEX inmuebles_date     ON inmuebles (date_key DESC, id);
CREATE INDEX inmuebles_listing  ON inmuebles (listing_type, date_key DESC, id);
CREATE INDEX inmuebles_boundary ON inmuebles (boundary_id, date_key DESC, id);
CREATE INDEX inmuebles_owner    ON inmuebles (owner, date_key DESC, id);
CREATE INDEX inmuebles_other_id ON inmuebles (other_id, id);

-- What the servers on this database share: the key of their cursors.
CREATE TABLE settings (
  name  TEXT PRIMARY KEY,
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE settings;
DROP INDEX inmuebles_other_id;
DROP INDEX inmuebles_owner;
DROP INDEX inmuebles_boundary;
DROP INDEX inmuebles_listing;
DROP INDEX inmuebles_date;
DROP INDEX inmuebles_unkeyed;
ALTER TABLE inmuebles DROP COLUMN date_in_key;
ALTER TABLE inmuebles DROP COLUMN date_key;
ALTER TABLE inmuebles DROP COLUMN date;
ALTER TABLE inmuebles DROP COLUMN listing_type;
ALTER TABLE inmuebles DROP COLUMN title;
ALTER TABLE inmuebles DROP COLUMN boundary_id;
ALTER TABLE inmuebles DROP COLUMN y_coord;
ALTER TABLE inmuebles DROP COLUMN x_coord;
ALTER TABLE inmuebles DROP COLUMN typology_type;
ALTER TABLE inmuebles DROP COLUMN end_week;
ALTER TABLE inmuebles DROP COLUMN property_type;
ALTER TABLE inmuebles DROP COLUMN date_in;
ALTER TABLE inmuebles DROP COLUMN description;
ALTER TABLE inmuebles DROP COLUMN date_diff;
ALTER TABLE inmuebles DROP COLUMN construction_type;
ALTER TABLE inmuebles DROP COLUMN start_month;
ALTER TABLE inmuebles DROP COLUMN is_active;
ALTER TABLE inmuebles DROP COLUMN build_status;
ALTER TABLE inmuebles DROP COLUMN other_id;
