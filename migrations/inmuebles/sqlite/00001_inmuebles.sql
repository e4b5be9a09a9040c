-- +goose Up
CREATE TABLE inmuebles (
  id TEXT NOT NULL PRIMARY KEY
) STRICT;

-- +goose Down
DROP TABLE inmuebles;
