-- Answers to requests with an Idempotency-Key, for a day. Bounded by whoever
-- writes them (package authserver, idempotency.go).

-- +goose Up
CREATE TABLE idempotency_keys (
    user_id     TEXT   NOT NULL,
    key         TEXT   NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint BYTEA  NOT NULL, -- SHA-256 of the request
    subject     TEXT   NOT NULL, -- what the request is about, as it was found
    answer      BYTEA,           -- NULL while the request runs, or when its process died
    created_at  BIGINT NOT NULL, -- Unix milliseconds
    PRIMARY KEY (user_id, key)
);

-- +goose Down
DROP TABLE idempotency_keys;
