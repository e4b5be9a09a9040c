-- Personal API tokens (package authserver, apitokens.go). Times are
-- milliseconds since 1970, UTC.

-- +goose Up
CREATE TABLE api_tokens (
  id           uuid   NOT NULL PRIMARY KEY, -- the sid of access tokens made from it
  user_id      uuid   NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  name         text   NOT NULL,
  hash         bytea  NOT NULL UNIQUE,      -- SHA-256 of a token of 256 random bits
  scopes       text   NOT NULL,             -- names with single spaces between them
  created_at   bigint NOT NULL,
  expires_at   bigint NOT NULL,
  last_used_at bigint                       -- to the hour, so that a use seldom writes
);
CREATE INDEX api_tokens_user_id ON api_tokens (user_id, id);
CREATE INDEX api_tokens_expires_at ON api_tokens (expires_at);

-- +goose Down
DROP TABLE api_tokens;
