-- +goose Up

-- What was answered to requests with an Idempotency-Key, in the transaction
-- that did what they asked for. The key is a hash of the asker and the
-- header, the print one of the request.
CREATE TABLE idempotency (
  key        TEXT PRIMARY KEY,
  print      TEXT NOT NULL,
  answer     BLOB NOT NULL,
  expires_at INTEGER NOT NULL -- Unix time in ms
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_expires_at ON idempotency (expires_at);

-- +goose Down
DROP TABLE idempotency;
