-- Logs of who changed what, and why, each entry bound to the one before it by
-- a hash (package audit), and keys that another issuer has made (package
-- keys). Times are Unix milliseconds.

-- +goose Up
CREATE TABLE audit_entries (
    log          TEXT NOT NULL,
    seq          BIGINT NOT NULL CHECK (seq > 0),
    at           BIGINT NOT NULL,
    actor        TEXT NOT NULL,
    action       TEXT NOT NULL,
    subject      TEXT NOT NULL,
    reason       TEXT NOT NULL,
    before_state TEXT NOT NULL, -- JSON; '' when it was made
    after_state  TEXT NOT NULL, -- JSON; '' when it is gone
    hash         BYTEA NOT NULL,
    PRIMARY KEY (log, seq)
);

-- Where each log ends. Its row is the lock under which it is written.
CREATE TABLE audit_heads (
    log  TEXT NOT NULL PRIMARY KEY,
    seq  BIGINT NOT NULL,
    hash BYTEA NOT NULL
);

-- Against mistakes; against whoever owns the tables there is the chain.
-- +goose StatementBegin
CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit_entries is append-only';
END
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();

-- Its id is the kid that the other issuer gave it, not a thumbprint.
ALTER TABLE signing_keys ADD COLUMN imported BOOLEAN NOT NULL DEFAULT FALSE;

-- +goose Down
ALTER TABLE signing_keys DROP COLUMN imported;
DROP TABLE audit_heads;
DROP TABLE audit_entries;
DROP FUNCTION audit_append_only;
