-- +goose Up

-- The place stands behind the date, so that the newest rows of an area are
-- found without a look at those that lie elsewhere; and the latitude behind
-- the longitude as an expression, because SQLite doesn't take a virtual
-- column's value out of an index: the box passed by rows that it fetched.
CREATE INDEX inmuebles_date_place ON inmuebles (date_key DESC, id, (document ->> '$.x_coord'), (document ->> '$.y_coord'));
DROP INDEX inmuebles_date;
CREATE INDEX inmuebles_x_place ON inmuebles ((document ->> '$.x_coord') DESC, id, (document ->> '$.y_coord'));
DROP INDEX inmuebles_place;

-- +goose Down
CREATE INDEX inmuebles_place ON inmuebles (x_coord DESC, id, y_coord);
DROP INDEX inmuebles_x_place;
CREATE INDEX inmuebles_date ON inmuebles (date_key DESC, id);
DROP INDEX inmuebles_date_place;
