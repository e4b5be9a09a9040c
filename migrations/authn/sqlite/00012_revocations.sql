-- The revocations feed: what has ended while access tokens of it may live.
-- Triggers write it, so an end and its entry are one transaction whoever makes
-- it: this release, the one before, a command, or an operator's own statement.
-- See authserver/revocations.go.

-- +goose Up
CREATE TABLE revocations (
  id     INTEGER PRIMARY KEY AUTOINCREMENT,
  seq    INTEGER UNIQUE,   -- the place in the feed; null until it is given one
  claim  TEXT    NOT NULL CHECK (claim IN ('sid', 'sub', 'client_id', 'jti')),
  value  TEXT    NOT NULL, -- tokens with this value of the claim are refused
  at     INTEGER NOT NULL, -- when it ended
  lifted INTEGER NOT NULL DEFAULT 0 -- 1: only tokens from before at are refused any more
) STRICT;
CREATE INDEX revocations_new ON revocations (id) WHERE seq IS NULL;
CREATE INDEX revocations_at ON revocations (at);
CREATE INDEX revocations_jti ON revocations (value) WHERE claim = 'jti';

-- One row: the last number given. Who gives the next ones locks it.
CREATE TABLE revocations_feed (
  id  INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
  seq INTEGER NOT NULL
) STRICT;
INSERT INTO revocations_feed (id, seq) VALUES (1, 0);

-- No access token lives longer than 24 hours, and each is made at a login or a
-- rotation: of a session that was last used before that, none is left.
-- +goose StatementBegin
CREATE TRIGGER sessions_revoke AFTER UPDATE OF ended_at ON sessions FOR EACH ROW
  WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.ended_at - OLD.rotated_at < 90000000
BEGIN
  INSERT INTO revocations (claim, value, at) VALUES ('sid', NEW.id, NEW.ended_at);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER users_revoke AFTER UPDATE OF disabled_at ON users FOR EACH ROW
  WHEN (OLD.disabled_at IS NULL) <> (NEW.disabled_at IS NULL)
BEGIN
  INSERT INTO revocations (claim, value, at, lifted) VALUES ('sub', NEW.id, COALESCE(NEW.disabled_at, OLD.disabled_at), NEW.disabled_at IS NULL);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER clients_revoke AFTER UPDATE OF disabled_at ON clients FOR EACH ROW
  WHEN (OLD.disabled_at IS NULL) <> (NEW.disabled_at IS NULL)
BEGIN
  INSERT INTO revocations (claim, value, at, lifted) VALUES ('client_id', NEW.id, COALESCE(NEW.disabled_at, OLD.disabled_at), NEW.disabled_at IS NULL);
END;
-- +goose StatementEnd

-- One that was disabled before has its entry.
-- +goose StatementBegin
CREATE TRIGGER users_revoke_deleted AFTER DELETE ON users FOR EACH ROW
  WHEN OLD.disabled_at IS NULL
BEGIN
  INSERT INTO revocations (claim, value, at) VALUES ('sub', OLD.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER clients_revoke_deleted AFTER DELETE ON clients FOR EACH ROW
  WHEN OLD.disabled_at IS NULL
BEGIN
  INSERT INTO revocations (claim, value, at) VALUES ('client_id', OLD.id, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
-- +goose StatementEnd

-- +goose Down
DROP TRIGGER clients_revoke_deleted;
DROP TRIGGER users_revoke_deleted;
DROP TRIGGER clients_revoke;
DROP TRIGGER users_revoke;
DROP TRIGGER sessions_revoke;
DROP TABLE revocations_feed;
DROP TABLE revocations;
