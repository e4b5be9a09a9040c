-- +goose Up

-- The words of title and description, without case and accents, as the server
-- writes them: in capitals, with a space between. Only which row has which
-- word is kept. The characters are those that ASCII takes for none of a word
-- and that some letter folds to.
CREATE VIRTUAL TABLE inmuebles_words USING fts5(
  words, content='', contentless_delete=1, detail=none, tokenize="ascii tokenchars '`;'"
);
INSERT INTO inmuebles_changed SELECT seq FROM inmuebles WHERE true ON CONFLICT DO NOTHING;

-- +goose Down
DROP TABLE inmuebles_words;
