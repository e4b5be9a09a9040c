-- +goose Up

-- A box on the map, read from east to west or back: with the latitude in the
-- index no row outside the box is looked at.
CREATE INDEX inmuebles_place ON inmuebles (x_coord DESC, id, y_coord);

-- +goose Down
DROP INDEX inmuebles_place;
