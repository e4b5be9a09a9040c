-- Users and their sessions. Times are milliseconds since 1970, UTC.

-- +goose Up
CREATE TABLE users (
  id            TEXT    NOT NULL PRIMARY KEY,
  email         TEXT    NOT NULL,          -- as it was given
  email_key     TEXT    NOT NULL UNIQUE,   -- without regard to case: what is compared
  password_hash TEXT    NOT NULL,          -- PHC string; never the password
  first_name    TEXT    NOT NULL,
  last_name     TEXT    NOT NULL,
  company       TEXT    NOT NULL,
  roles         TEXT    NOT NULL,          -- names with single spaces between them
  created_at    INTEGER NOT NULL,
  updated_at    INTEGER NOT NULL,
  disabled_at   INTEGER
) STRICT;

-- A session is a family of refresh tokens: one current, some superseded.
CREATE TABLE sessions (
  id              TEXT    NOT NULL PRIMARY KEY,
  user_id         TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  client_id       TEXT    NOT NULL,
  audience        TEXT    NOT NULL,
  mark_key        BLOB    NOT NULL, -- recognises every token of the family; makes none
  current_hash    BLOB    NOT NULL, -- SHA-256 of the current token's secret
  history         TEXT    NOT NULL, -- superseded within the grace: see authserver/session.go
  created_at      INTEGER NOT NULL,
  rotated_at      INTEGER NOT NULL,
  idle_expires_at INTEGER NOT NULL,
  expires_at      INTEGER NOT NULL,
  ended_at        INTEGER,
  ended_reason    TEXT
) STRICT;
CREATE INDEX sessions_user_id ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

-- +goose Down
DROP TABLE sessions;
DROP TABLE users;
