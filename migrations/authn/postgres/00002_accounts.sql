-- Users and their sessions. Times are milliseconds since 1970, UTC.

-- +goose Up
CREATE TABLE users (
  id            uuid   NOT NULL PRIMARY KEY,
  email         text   NOT NULL,          -- as it was given
  email_key     text   NOT NULL UNIQUE,   -- without regard to case: what is compared
  password_hash text   NOT NULL,          -- PHC string; never the password
  first_name    text   NOT NULL,
  last_name     text   NOT NULL,
  company       text   NOT NULL,
  roles         text   NOT NULL,          -- names with single spaces between them
  created_at    bigint NOT NULL,
  updated_at    bigint NOT NULL,
  disabled_at   bigint
);

-- A session is a family of refresh tokens: one current, some superseded.
CREATE TABLE sessions (
  id              uuid   NOT NULL PRIMARY KEY,
  user_id         uuid   NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  client_id       text   NOT NULL,
  audience        text   NOT NULL,
  mark_key        bytea  NOT NULL, -- recognises every token of the family; makes none
  current_hash    bytea  NOT NULL, -- SHA-256 of the current token's secret
  history         text   NOT NULL, -- superseded within the grace: see authserver/session.go
  created_at      bigint NOT NULL,
  rotated_at      bigint NOT NULL,
  idle_expires_at bigint NOT NULL,
  expires_at      bigint NOT NULL,
  ended_at        bigint,
  ended_reason    text
) WITH (fillfactor = 80);
CREATE INDEX sessions_user_id ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

-- +goose Down
DROP TABLE sessions;
DROP TABLE users;
