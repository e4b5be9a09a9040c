-- The signing-key ring (package keys). Times are Unix milliseconds.

-- +goose Up
-- One row, whose version every change of the ring compares and counts up. It
-- is never missing: a ring without it is damaged, not new.
CREATE TABLE signing_ring (
    id      SMALLINT PRIMARY KEY CHECK (id = 1),
    version BIGINT   NOT NULL CHECK (version >= 0)
);
INSERT INTO signing_ring (id, version) VALUES (1, 0);

CREATE TABLE signing_keys (
    kid          TEXT   PRIMARY KEY, -- RFC 7638 thumbprint
    alg          TEXT   NOT NULL,
    state        TEXT   NOT NULL CHECK (state IN ('announced', 'signing', 'retiring', 'retired', 'revoked')),
    public_key   BYTEA  NOT NULL,    -- SubjectPublicKeyInfo, DER
    sealed       BYTEA,              -- PKCS #8, encrypted
    announced_at BIGINT NOT NULL,
    ready_at     BIGINT NOT NULL,
    activate_at  BIGINT NOT NULL,
    retire_at    BIGINT NOT NULL,
    unpublish_at BIGINT NOT NULL,
    revoked_at   BIGINT,
    reason       TEXT   NOT NULL,
    -- A private half exists as long as its key signs or is to sign.
    CHECK ((sealed IS NOT NULL) = (state IN ('announced', 'signing'))),
    CHECK ((revoked_at IS NOT NULL) = (state = 'revoked'))
);
CREATE UNIQUE INDEX signing_keys_one_signs ON signing_keys (alg) WHERE state = 'signing';

-- What happened to which key, appended by the same transaction.
CREATE TABLE signing_key_events (
    version    BIGINT  NOT NULL,     -- of the ring that the change led to
    seq        INTEGER NOT NULL,
    at         BIGINT  NOT NULL,
    kid        TEXT    NOT NULL,
    alg        TEXT    NOT NULL,
    from_state TEXT    NOT NULL,     -- '' when the key was made
    to_state   TEXT    NOT NULL,     -- '' when it was forgotten
    actor      TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    PRIMARY KEY (version, seq)
);

-- +goose Down
DROP TABLE signing_key_events;
DROP TABLE signing_keys;
DROP TABLE signing_ring;
