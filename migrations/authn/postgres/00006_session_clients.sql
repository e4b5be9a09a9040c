-- What a session's owner is shown of it, to tell one from another.

-- +goose Up
ALTER TABLE sessions
  ADD COLUMN user_agent text NOT NULL DEFAULT '', -- of the last login or refresh
  ADD COLUMN network    text NOT NULL DEFAULT ''; -- IPv4 /32 or IPv6 /64 of the last login or refresh

-- +goose Down
ALTER TABLE sessions DROP COLUMN network, DROP COLUMN user_agent;
