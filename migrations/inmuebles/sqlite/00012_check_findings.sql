-- +goose Up

-- Rows that were written as no valid inmueble while the database's checks were
-- set to warn: `urbandata inmuebles checks`. The triggers that do it are that
-- command's.
CREATE TABLE check_findings (
  seq INTEGER PRIMARY KEY, -- of the row
  at  INTEGER NOT NULL     -- Unix time in ms, of the last time
) STRICT;

-- +goose Down
DROP TABLE check_findings;
