-- The revocations feed: what has ended while access tokens of it may live.
-- Triggers write it, so an end and its entry are one transaction whoever makes
-- it: this release, the one before, a command, or an operator's own statement.
-- See authserver/revocations.go.

-- +goose Up
CREATE TABLE revocations (
  id     bigint   NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  seq    bigint   UNIQUE,   -- the place in the feed; null until it is given one
  claim  text     NOT NULL CHECK (claim IN ('sid', 'sub', 'client_id', 'jti')),
  value  text     NOT NULL, -- tokens with this value of the claim are refused
  at     bigint   NOT NULL, -- when it ended
  lifted smallint NOT NULL DEFAULT 0 -- 1: only tokens from before at are refused any more
);
CREATE INDEX revocations_new ON revocations (id) WHERE seq IS NULL;
CREATE INDEX revocations_at ON revocations (at);
CREATE INDEX revocations_jti ON revocations (value) WHERE claim = 'jti';

-- One row: the last number given. Who gives the next ones locks it.
CREATE TABLE revocations_feed (
  id  smallint NOT NULL PRIMARY KEY CHECK (id = 1),
  seq bigint   NOT NULL
);
INSERT INTO revocations_feed (id, seq) VALUES (1, 0);

-- +goose StatementBegin
CREATE FUNCTION revoke_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO revocations (claim, value, at) VALUES ('sid', NEW.id, NEW.ended_at);
  RETURN NULL;
END $$;
-- +goose StatementEnd
-- No access token lives longer than 24 hours, and each is made at a login or a
-- rotation: of a session that was last used before that, none is left.
CREATE TRIGGER revoke AFTER UPDATE OF ended_at ON sessions FOR EACH ROW
  WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.ended_at - OLD.rotated_at < 90000000)
  EXECUTE FUNCTION revoke_session();

-- Users and clients: the argument is the claim that names them.
-- +goose StatementBegin
CREATE FUNCTION revoke_disabled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO revocations (claim, value, at, lifted)
    VALUES (TG_ARGV[0], NEW.id, COALESCE(NEW.disabled_at, OLD.disabled_at), CASE WHEN NEW.disabled_at IS NULL THEN 1 ELSE 0 END);
  RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER revoke AFTER UPDATE OF disabled_at ON users FOR EACH ROW
  WHEN ((OLD.disabled_at IS NULL) <> (NEW.disabled_at IS NULL)) EXECUTE FUNCTION revoke_disabled('sub');
CREATE TRIGGER revoke AFTER UPDATE OF disabled_at ON clients FOR EACH ROW
  WHEN ((OLD.disabled_at IS NULL) <> (NEW.disabled_at IS NULL)) EXECUTE FUNCTION revoke_disabled('client_id');

-- +goose StatementBegin
CREATE FUNCTION revoke_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO revocations (claim, value, at)
    VALUES (TG_ARGV[0], OLD.id, CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) AS bigint));
  RETURN NULL;
END $$;
-- +goose StatementEnd
-- One that was disabled before has its entry.
CREATE TRIGGER revoke_deleted AFTER DELETE ON users FOR EACH ROW
  WHEN (OLD.disabled_at IS NULL) EXECUTE FUNCTION revoke_deleted('sub');
CREATE TRIGGER revoke_deleted AFTER DELETE ON clients FOR EACH ROW
  WHEN (OLD.disabled_at IS NULL) EXECUTE FUNCTION revoke_deleted('client_id');

-- +goose Down
DROP TRIGGER revoke_deleted ON clients;
DROP TRIGGER revoke_deleted ON users;
DROP TRIGGER revoke ON clients;
DROP TRIGGER revoke ON users;
DROP TRIGGER revoke ON sessions;
DROP FUNCTION revoke_deleted();
DROP FUNCTION revoke_disabled();
DROP FUNCTION revoke_session();
DROP TABLE revocations_feed;
DROP TABLE revocations;
