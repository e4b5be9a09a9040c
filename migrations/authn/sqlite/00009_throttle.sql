-- How often something failed or was asked for, by account and network. A row
-- is written when it did, never by a login or refresh that succeeds.

-- +goose Up
CREATE TABLE throttle (
  key        TEXT    NOT NULL PRIMARY KEY, -- of a limit and whom it is about, hashed: no address is kept
  count      INTEGER NOT NULL,
  last_at    INTEGER NOT NULL,
  expires_at INTEGER NOT NULL              -- from when on it counts as 0
) STRICT;
CREATE INDEX throttle_expires_at ON throttle (expires_at);

-- Whether a user has logged in from a network before.
CREATE INDEX sessions_user_network ON sessions (user_id, network);
DROP INDEX sessions_user_id; -- the beginning of the new one

-- +goose Down
CREATE INDEX sessions_user_id ON sessions (user_id);
DROP INDEX sessions_user_network;
DROP TABLE throttle;
