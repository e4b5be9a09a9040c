-- Programs that get tokens in their own name, and whom tokens are for. Times
-- are milliseconds since 1970, UTC.

-- +goose Up
CREATE TABLE clients (
  id                  text NOT NULL PRIMARY KEY,
  name                text NOT NULL,
  auth_method         text NOT NULL CHECK (auth_method IN ('client_secret', 'private_key_jwt')),
  secret_hash         bytea, -- SHA-256 of 256 random bits
  old_secret_hash     bytea, -- the one before, until a moment
  old_secret_until    bigint,
  jwks                text, -- public keys of private_key_jwt
  grants              text NOT NULL, -- lists have single spaces between
  scopes              text NOT NULL,
  audiences           text NOT NULL,
  created_at          bigint NOT NULL,
  updated_at          bigint NOT NULL,
  disabled_at         bigint,
  CHECK ((secret_hash IS NOT NULL) = (auth_method = 'client_secret')),
  CHECK ((jwks IS NOT NULL) = (auth_method = 'private_key_jwt')),
  CHECK ((old_secret_hash IS NULL) = (old_secret_until IS NULL))
);

CREATE TABLE audiences (
  name       text NOT NULL PRIMARY KEY,
  alg        text NOT NULL,
  typ        text NOT NULL CHECK (typ IN ('at+jwt', 'JWT')),
  token_life bigint NOT NULL CHECK (token_life >= 0), -- milliseconds; 0 for the server's
  for_users  bigint NOT NULL CHECK (for_users IN (0, 1)), -- whether a user may ask; a client needs it in its own list
  created_at bigint NOT NULL
);

-- Assertions that were used (RFC 7523 §3, 7): each counts once.
CREATE TABLE client_assertions (
  id         bytea NOT NULL PRIMARY KEY, -- SHA-256 of client and jti
  expires_at bigint NOT NULL
);
CREATE INDEX client_assertions_expires_at ON client_assertions (expires_at);

-- +goose Down
DROP TABLE client_assertions;
DROP TABLE audiences;
DROP TABLE clients;
