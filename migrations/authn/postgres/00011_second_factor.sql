-- Second factors (RFC 6238) and how a session began.

-- +goose Up
ALTER TABLE users ADD COLUMN second_factor_at bigint; -- since when a login needs it

CREATE TABLE second_factors (
  user_id   uuid   NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
  sealed    bytea  NOT NULL, -- the secret, encrypted
  sealed_by text   NOT NULL, -- id of the sealing key
  last_step bigint NOT NULL  -- of the last code that was taken: neither it nor one before is taken again
);
CREATE INDEX second_factors_sealed_by ON second_factors (sealed_by);

CREATE TABLE recovery_codes (
  user_id uuid  NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  hash    bytea NOT NULL, -- SHA-256 of 80 random bits; the row goes when it is used
  PRIMARY KEY (user_id, hash)
);

ALTER TABLE sessions ADD COLUMN amr text NOT NULL DEFAULT 'pwd'; -- RFC 8176, with spaces between

-- +goose Down
ALTER TABLE sessions DROP COLUMN amr;
DROP TABLE recovery_codes;
DROP TABLE second_factors;
ALTER TABLE users DROP COLUMN second_factor_at;
