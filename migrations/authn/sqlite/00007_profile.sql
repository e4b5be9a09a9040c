-- What users set and do themselves: their language, the end of their account.

-- +goose Up
ALTER TABLE users ADD COLUMN language    TEXT NOT NULL DEFAULT ''; -- of mail: es, en, or '' for the default
ALTER TABLE users ADD COLUMN disabled_by TEXT NOT NULL DEFAULT ''; -- owner or operator, where disabled_at is set
ALTER TABLE users ADD COLUMN erase_at    INTEGER;                  -- deleted by its owner, who can take it back until then
CREATE INDEX users_erase_at ON users (erase_at) WHERE erase_at IS NOT NULL;

-- +goose Down
DROP INDEX users_erase_at;
ALTER TABLE users DROP COLUMN erase_at;
ALTER TABLE users DROP COLUMN disabled_by;
ALTER TABLE users DROP COLUMN language;
