-- +goose Up

-- A listing_type and a property_type by date. The month is looked at in the
-- index, so that no row is fetched to be left out for it: SQLite takes it from
-- there if index and statement have it as an expression, which for a virtual
-- column it doesn't.
CREATE INDEX inmuebles_kind ON inmuebles (listing_type, property_type, date_key DESC, id, (document ->> '$.start_month'));

-- +goose Down
DROP INDEX inmuebles_kind;
