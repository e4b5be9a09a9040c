-- The audit of accounts (package audit): entries wait in a queue, in the
-- transaction of the act that they are about, until they are chained; where
-- the act came from is kept apart, because it may be erased. Times are Unix
-- milliseconds.

-- +goose Up
ALTER TABLE audit_entries ADD COLUMN origin_hash BYTEA; -- what the chain has of an origin; NULL for none

CREATE TABLE audit_queue (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log          TEXT NOT NULL,
    at           BIGINT NOT NULL,
    actor        TEXT NOT NULL,
    action       TEXT NOT NULL,
    subject      TEXT NOT NULL,
    reason       TEXT NOT NULL,
    before_state TEXT NOT NULL,
    after_state  TEXT NOT NULL,
    origin       TEXT NOT NULL, -- JSON; '' for none, or erased
    origin_of    TEXT NOT NULL, -- whose it is: an id, or ''
    origin_salt  BYTEA,
    origin_hash  BYTEA          -- of salt and origin, made when it was queued
);
CREATE INDEX audit_queue_origin_of ON audit_queue (origin_of);

CREATE TABLE audit_origins (
    log         TEXT NOT NULL,
    seq         BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    origin      TEXT NOT NULL,
    origin_of   TEXT NOT NULL,
    origin_salt BYTEA NOT NULL,
    PRIMARY KEY (log, seq)
);
CREATE INDEX audit_origins_of ON audit_origins (origin_of);
CREATE INDEX audit_origins_at ON audit_origins (at);

-- By whom, to whom, what and when the audit is searched.
CREATE INDEX audit_entries_actor ON audit_entries (log, actor, seq);
CREATE INDEX audit_entries_subject ON audit_entries (log, subject, seq);
CREATE INDEX audit_entries_action ON audit_entries (log, action, seq);
CREATE INDEX audit_entries_at ON audit_entries (log, at, seq);

-- Of users: the few administrators, of whom one must be left; who can't log
-- in; and addresses by their beginning, byte by byte.
CREATE INDEX users_administrators ON users (id) WHERE ' ' || roles || ' ' LIKE '% admin %';
CREATE INDEX users_disabled ON users (id) WHERE disabled_at IS NOT NULL;
CREATE INDEX users_email_bytes ON users (email_key COLLATE "C");

-- +goose Down
DROP INDEX users_email_bytes;
DROP INDEX users_disabled;
DROP INDEX users_administrators;
DROP INDEX audit_entries_at;
DROP INDEX audit_entries_action;
DROP INDEX audit_entries_subject;
DROP INDEX audit_entries_actor;
DROP TABLE audit_origins;
DROP TABLE audit_queue;
ALTER TABLE audit_entries DROP COLUMN origin_hash;
