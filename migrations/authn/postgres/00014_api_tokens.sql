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
  expires_at   bigint NOT NULL,             -- or when it ended before that
  last_used_at bigint                       -- to the hour, so that a use seldom writes
);
CREATE INDEX api_tokens_user_id ON api_tokens (user_id, id);
CREATE INDEX api_tokens_expires_at ON api_tokens (expires_at);

-- Access tokens of one that ends before its time: see 00012_revocations.sql.
-- +goose StatementBegin
CREATE FUNCTION revoke_api_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO revocations (claim, value, at) VALUES ('sid', NEW.id, NEW.expires_at);
  RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER revoke AFTER UPDATE OF expires_at ON api_tokens FOR EACH ROW
  WHEN (NEW.expires_at < OLD.expires_at) EXECUTE FUNCTION revoke_api_token();

-- +goose Down
DROP TABLE api_tokens;
DROP FUNCTION revoke_api_token();
