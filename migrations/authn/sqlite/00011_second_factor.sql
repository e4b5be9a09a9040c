-- Second factors (RFC 6238) and how a session began.

-- +goose Up
ALTER TABLE users ADD COLUMN second_factor_at INTEGER; -- since when a login needs it

CREATE TABLE second_factors (
  user_id   TEXT    NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
  sealed    BLOB    NOT NULL, -- the secret, encrypted
  sealed_by TEXT    NOT NULL, -- id of the sealing key
  last_step INTEGER NOT NULL  -- of the last code that was taken: neither it nor one before is taken again
) STRICT;
CREATE INDEX second_factors_sealed_by ON second_factors (sealed_by);

CREATE TABLE recovery_codes (
  user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  hash    BLOB NOT NULL, -- SHA-256 of 80 random bits; the row goes when it is used
  PRIMARY KEY (user_id, hash)
) STRICT;

ALTER TABLE sessions ADD COLUMN amr TEXT NOT NULL DEFAULT 'pwd'; -- RFC 8176, with spaces between

-- +goose Down
ALTER TABLE sessions DROP COLUMN amr;
DROP TABLE recovery_codes;
DROP TABLE second_factors;
ALTER TABLE users DROP COLUMN second_factor_at;
