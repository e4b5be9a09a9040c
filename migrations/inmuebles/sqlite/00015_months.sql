-- +goose Up

-- A listing_type, a property_type and a month by date: a page of some months
-- is merged of one range for each, however many newer rows are of another
-- month. What is none of the twelve is 0 here, and has the month behind the
-- date. That, too, is an expression, because SQLite doesn't take a virtual
-- column's value out of an index: so all is merged before a row is fetched.
CREATE INDEX inmuebles_month ON inmuebles (listing_type, property_type,
  (CASE WHEN document ->> '$.start_month' IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12) THEN document ->> '$.start_month' ELSE 0 END),
  (coalesce(document ->> '$.date_key', document ->> '$.date')) DESC, id, (document ->> '$.start_month'));

-- +goose Down
DROP INDEX inmuebles_month;
