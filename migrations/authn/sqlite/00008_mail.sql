-- Mail: what is to be sent, and the links in it.

-- +goose Up
ALTER TABLE users ADD COLUMN email_verified_at INTEGER; -- when its owner last showed to read the address

-- What is to be sent. No row holds a secret: a link is made when its mail is.
CREATE TABLE outbox (
  id         TEXT    NOT NULL PRIMARY KEY,
  kind       TEXT    NOT NULL,
  user_id    TEXT    REFERENCES users (id) ON DELETE CASCADE,
  address    TEXT    NOT NULL,          -- of whom, as far as user_id doesn't say it
  language   TEXT    NOT NULL,          -- es, en, or '' for the user's
  dedupe     TEXT    NOT NULL UNIQUE,   -- a second of the same takes the place of the first
  created_at INTEGER NOT NULL,
  due_at     INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,          -- it helps nobody after that
  attempts   INTEGER NOT NULL,
  lease      TEXT    NOT NULL           -- of the process that sends it until due_at
) STRICT;
CREATE INDEX outbox_due_at ON outbox (due_at);

-- Links in mail that is out.
CREATE TABLE email_links (
  hash       BLOB    NOT NULL PRIMARY KEY, -- SHA-256 of the link's token
  purpose    TEXT    NOT NULL CHECK (purpose IN ('reset', 'verify', 'change')),
  user_id    TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  email      TEXT    NOT NULL,             -- where it was sent
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  claimed_at INTEGER                       -- being used since
) STRICT;
CREATE INDEX email_links_user_id ON email_links (user_id);
CREATE INDEX email_links_expires_at ON email_links (expires_at);

-- +goose Down
DROP TABLE email_links;
DROP TABLE outbox;
ALTER TABLE users DROP COLUMN email_verified_at;
