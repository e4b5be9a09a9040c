-- +goose Up

-- A listing_type, a property_type and a month by date: a page of some months
-- is merged of one range for each, however many newer rows are of another
-- month. The month is written in another way than in inmuebles_kind and in the
-- statements that don't ask for this index by its values: SQLite would take
-- all rows of a range of months out of it, and sort them.
CREATE INDEX inmuebles_month ON inmuebles (listing_type, property_type, json_extract(document, '$.start_month'), date_key DESC, id);

-- +goose Down
DROP INDEX inmuebles_month;
