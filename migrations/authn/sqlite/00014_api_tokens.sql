-- Personal API tokens (package authserver, apitokens.go). Times are
-- milliseconds since 1970, UTC.

-- +goose Up
CREATE TABLE api_tokens (
  id           TEXT    NOT NULL PRIMARY KEY, -- the sid of access tokens made from it
  user_id      TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  name         TEXT    NOT NULL,
  hash         BLOB    NOT NULL UNIQUE,      -- SHA-256 of a token of 256 random bits
  scopes       TEXT    NOT NULL,             -- names with single spaces between them
  created_at   INTEGER NOT NULL,
  expires_at   INTEGER NOT NULL,             -- or when it ended before that
  last_used_at INTEGER                       -- to the hour, so that a use seldom writes
) STRICT;
CREATE INDEX api_tokens_user_id ON api_tokens (user_id, id);
CREATE INDEX api_tokens_expires_at ON api_tokens (expires_at);

-- Access tokens of one that ends before its time: see 00012_revocations.sql.
-- +goose StatementBegin
CREATE TRIGGER api_tokens_revoke AFTER UPDATE OF expires_at ON api_tokens FOR EACH ROW
  WHEN NEW.expires_at < OLD.expires_at
BEGIN
  INSERT INTO revocations (claim, value, at) VALUES ('sid', NEW.id, NEW.expires_at);
END;
-- +goose StatementEnd

-- +goose Down
DROP TABLE api_tokens;
