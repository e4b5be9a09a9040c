-- Mail: what is to be sent, and the links in it.

-- +goose Up
ALTER TABLE users ADD COLUMN email_verified_at bigint; -- when its owner last showed to read the address

-- What is to be sent. No row holds a secret: a link is made when its mail is.
CREATE TABLE outbox (
  id         uuid    NOT NULL PRIMARY KEY,
  kind       text    NOT NULL,
  user_id    uuid    REFERENCES users (id) ON DELETE CASCADE,
  address    text    NOT NULL,          -- of whom, as far as user_id doesn't say it
  language   text    NOT NULL,          -- es, en, or '' for the user's
  dedupe     text    NOT NULL UNIQUE,   -- a second of the same takes the place of the first
  created_at bigint  NOT NULL,
  due_at     bigint  NOT NULL,
  expires_at bigint  NOT NULL,          -- it helps nobody after that
  attempts   integer NOT NULL,
  lease      text    NOT NULL           -- of the replica that sends it until due_at
);
CREATE INDEX outbox_due_at ON outbox (due_at);

-- Links in mail that is out.
CREATE TABLE email_links (
  hash       bytea  NOT NULL PRIMARY KEY, -- SHA-256 of the link's token
  purpose    text   NOT NULL CHECK (purpose IN ('reset', 'verify', 'change')),
  user_id    uuid   NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  email      text   NOT NULL,             -- where it was sent
  created_at bigint NOT NULL,
  expires_at bigint NOT NULL,
  claimed_at bigint                       -- being used since
);
CREATE INDEX email_links_user_id ON email_links (user_id);
CREATE INDEX email_links_expires_at ON email_links (expires_at);

-- +goose Down
DROP TABLE email_links;
DROP TABLE outbox;
ALTER TABLE users DROP COLUMN email_verified_at;
