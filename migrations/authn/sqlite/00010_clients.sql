-- Programs that get tokens in their own name, and whom tokens are for. Times
-- are milliseconds since 1970, UTC.

-- +goose Up
CREATE TABLE clients (
  id                  TEXT NOT NULL PRIMARY KEY,
  name                TEXT NOT NULL,
  auth_method         TEXT NOT NULL CHECK (auth_method IN ('client_secret', 'private_key_jwt')),
  secret_hash         BLOB, -- SHA-256 of 256 random bits
  old_secret_hash     BLOB, -- the one before, until a moment
  old_secret_until    INTEGER,
  jwks                TEXT, -- public keys of private_key_jwt
  grants              TEXT NOT NULL, -- lists have single spaces between
  scopes              TEXT NOT NULL,
  audiences           TEXT NOT NULL,
  created_at          INTEGER NOT NULL,
  updated_at          INTEGER NOT NULL,
  disabled_at         INTEGER,
  CHECK ((secret_hash IS NOT NULL) = (auth_method = 'client_secret')),
  CHECK ((jwks IS NOT NULL) = (auth_method = 'private_key_jwt')),
  CHECK ((old_secret_hash IS NULL) = (old_secret_until IS NULL))
) STRICT;

CREATE TABLE audiences (
  name       TEXT NOT NULL PRIMARY KEY,
  alg        TEXT NOT NULL,
  typ        TEXT NOT NULL CHECK (typ IN ('at+jwt', 'JWT')),
  token_life INTEGER NOT NULL CHECK (token_life >= 0), -- milliseconds; 0 for the server's
  for_users  INTEGER NOT NULL CHECK (for_users IN (0, 1)), -- whether a user may ask; a client needs it in its own list
  created_at INTEGER NOT NULL
) STRICT;

-- Assertions that were used (RFC 7523 §3, 7): each counts once.
CREATE TABLE client_assertions (
  id         BLOB NOT NULL PRIMARY KEY, -- SHA-256 of client and jti
  expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX client_assertions_expires_at ON client_assertions (expires_at);

-- +goose Down
DROP TABLE client_assertions;
DROP TABLE audiences;
DROP TABLE clients;
