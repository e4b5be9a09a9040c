-- Logs of who changed what, and why, each entry bound to the one before it by
-- a hash (package audit), and keys that another issuer has made (package
-- keys). Times are Unix milliseconds.

-- +goose Up
CREATE TABLE audit_entries (
    log          TEXT NOT NULL,
    seq          INTEGER NOT NULL CHECK (seq > 0),
    at           INTEGER NOT NULL,
    actor        TEXT NOT NULL,
    action       TEXT NOT NULL,
    subject      TEXT NOT NULL,
    reason       TEXT NOT NULL,
    before_state TEXT NOT NULL, -- JSON; '' when it was made
    after_state  TEXT NOT NULL, -- JSON; '' when it is gone
    hash         BLOB NOT NULL,
    PRIMARY KEY (log, seq)
) STRICT;

-- Where each log ends. Its row is the lock under which it is written.
CREATE TABLE audit_heads (
    log  TEXT NOT NULL PRIMARY KEY,
    seq  INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;

-- Against mistakes; against whoever owns the file there is the chain.
-- +goose StatementBegin
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit_entries
BEGIN
    SELECT RAISE(ABORT, 'audit_entries is append-only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit_entries
BEGIN
    SELECT RAISE(ABORT, 'audit_entries is append-only');
END;
-- +goose StatementEnd

-- Its id is the kid that the other issuer gave it, not a thumbprint.
ALTER TABLE signing_keys ADD COLUMN imported INTEGER NOT NULL DEFAULT 0 CHECK (imported IN (0, 1));

-- +goose Down
ALTER TABLE signing_keys DROP COLUMN imported;
DROP TABLE audit_heads;
DROP TABLE audit_entries;
