-- +goose Up

-- One property a row. The document is JSON without null and default members
-- and without what the other columns hold; its CHECK keeps a broken one from
-- failing every statement that looks into it. A time is of a year with four
-- digits, as RFC 3339 wants. Text compares by its bytes,
-- which in UTF-8 is by code point.
CREATE TABLE inmuebles (
  seq        INTEGER PRIMARY KEY, -- small and stable, for what will refer to rows
  id         TEXT NOT NULL UNIQUE CHECK (id <> ''),
  owner      TEXT NOT NULL,       -- sub of a token; '' is nobody's
  created_at INTEGER CHECK (created_at BETWEEN -62167219200000 AND 253402300799999), -- Unix time in ms; NULL is unknown
  updated_at INTEGER CHECK (updated_at BETWEEN -62167219200000 AND 253402300799999),
  document   TEXT NOT NULL CHECK (json_valid(document))
) STRICT;

-- +goose Down
DROP TABLE inmuebles;
