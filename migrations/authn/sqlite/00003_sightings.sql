-- Which verifier has told that it holds which key set (package keys,
-- Sighting). Bounded; of use for a planned rotation, never for verification.

-- +goose Up
CREATE TABLE verifier_sightings (
    verifier TEXT    NOT NULL PRIMARY KEY CHECK (length(verifier) BETWEEN 1 AND 64),
    etag     TEXT    NOT NULL, -- of the set; '' when it holds none
    kids     TEXT    NOT NULL, -- in the set, with spaces between
    seen_at  INTEGER NOT NULL  -- Unix milliseconds
) STRICT;

-- +goose Down
DROP TABLE verifier_sightings;
