-- The signing-key ring (package keys). Times are Unix milliseconds.

-- +goose Up
-- One row, whose version every change of the ring compares and counts up. It
-- is never missing: a ring without it is damaged, not new.
CREATE TABLE signing_ring (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL CHECK (version >= 0)
) STRICT;
INSERT INTO signing_ring (id, version) VALUES (1, 0);

CREATE TABLE signing_keys (
    kid          TEXT    NOT NULL PRIMARY KEY, -- RFC 7638 thumbprint
    alg          TEXT    NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('announced', 'signing', 'retiring', 'retired', 'revoked')),
    public_key   BLOB    NOT NULL,    -- SubjectPublicKeyInfo, DER
    sealed       BLOB,                -- PKCS #8, encrypted
    announced_at INTEGER NOT NULL,
    ready_at     INTEGER NOT NULL,
    activate_at  INTEGER NOT NULL,
    retire_at    INTEGER NOT NULL,
    unpublish_at INTEGER NOT NULL,
    revoked_at   INTEGER,
    reason       TEXT    NOT NULL,
    -- A private half exists as long as its key signs or is to sign.
    CHECK ((sealed IS NOT NULL) = (state IN ('announced', 'signing'))),
    CHECK ((revoked_at IS NOT NULL) = (state = 'revoked'))
) STRICT;
CREATE UNIQUE INDEX signing_keys_one_signs ON signing_keys (alg) WHERE state = 'signing';

-- What happened to which key, appended by the same transaction.
CREATE TABLE signing_key_events (
    version    INTEGER NOT NULL,     -- of the ring that the change led to
    seq        INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    kid        TEXT    NOT NULL,
    alg        TEXT    NOT NULL,
    from_state TEXT    NOT NULL,     -- '' when the key was made
    to_state   TEXT    NOT NULL,     -- '' when it was forgotten
    actor      TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    PRIMARY KEY (version, seq)
) STRICT;

-- +goose Down
DROP TABLE signing_key_events;
DROP TABLE signing_keys;
DROP TABLE signing_ring;
