-- What users set and do themselves: their language, the end of their account.

-- +goose Up
ALTER TABLE users
  ADD COLUMN language    text NOT NULL DEFAULT '', -- of mail: es, en, or '' for the default
  ADD COLUMN disabled_by text NOT NULL DEFAULT '', -- owner or operator, where disabled_at is set
  ADD COLUMN erase_at    bigint;                   -- deleted by its owner, who can take it back until then
CREATE INDEX users_erase_at ON users (erase_at) WHERE erase_at IS NOT NULL;

-- +goose Down
DROP INDEX users_erase_at;
ALTER TABLE users DROP COLUMN erase_at, DROP COLUMN disabled_by, DROP COLUMN language;
