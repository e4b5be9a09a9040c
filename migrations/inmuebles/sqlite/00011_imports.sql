-- +goose Up

-- Imports over HTTP. The document is the whole job as JSON; the columns are
-- what is asked for. The version is one more with each change: who changes a
-- job must have seen the last. What was uploaded, and the rows that were
-- refused, are files in a folder beside the database.
CREATE TABLE imports (
  id          TEXT PRIMARY KEY, -- in the order of their making
  owner       TEXT NOT NULL,
  key         TEXT UNIQUE,      -- hash of the asker and the Idempotency-Key
  state       TEXT NOT NULL,
  version     INTEGER NOT NULL,
  finished_at INTEGER,          -- Unix time in ms
  document    TEXT NOT NULL CHECK (json_valid(document))
) STRICT, WITHOUT ROWID;
CREATE INDEX imports_owner ON imports (owner, id);
CREATE INDEX imports_state ON imports (state, id);
CREATE INDEX imports_finished_at ON imports (finished_at) WHERE finished_at IS NOT NULL;

-- Signs of life of who works on a job.
CREATE TABLE import_beats (
  id       TEXT PRIMARY KEY,
  alive    INTEGER NOT NULL, -- Unix time in ms
  progress TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE import_beats;
DROP TABLE imports;
