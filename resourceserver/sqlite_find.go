package resourceserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/jmoiron/sqlx"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// statements are prepared once and kept, by their text, because parsing one
// costs as much as running it. The values of a filter are never in the text,
// so there are few.
type statements struct {
	db *sqlx.DB

	mu   sync.Mutex // guards all
	all  map[string]*sqlx.Stmt
	most int
}

func newStatements(db *sqlx.DB) *statements {
	const most = 128 // a long in or a deep or makes one of its own
	return &statements{db: db, all: map[string]*sqlx.Stmt{}, most: most}
}

// known is a statement that was prepared, or nil.
func (s *statements) known(text string) *sqlx.Stmt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[text]
}

// get prepares a statement, or finds it. One that had to make room is closed
// only when nobody uses it any more: package database/sql waits for that.
func (s *statements) get(ctx context.Context, text string) (*sqlx.Stmt, error) {
	if stmt := s.known(text); stmt != nil {
		return stmt, nil
	}
	stmt, err := s.db.PreparexContext(ctx, text)
	if err != nil {
		return nil, sqliteError(ctx, "prepare", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.all[text]; other != nil { // somebody was faster
		defer func() { _ = stmt.Close() }()
		return other, nil
	}
	if len(s.all) >= s.most {
		for old, one := range s.all { // any
			delete(s.all, old)
			go func() { _ = one.Close() }()
			break
		}
	}
	s.all[text] = stmt
	return stmt, nil
}

func (s *statements) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, stmt := range s.all {
		errs = append(errs, stmt.Close())
	}
	clear(s.all)
	return errors.Join(errs...)
}

// Find asks for one row more than wanted, to learn whether there are more. A
// page that begins behind a document is made of ranges of the order's index,
// one statement each, until it is full.
//
// Where answers are wanted, a statement's rows come packed into one, and the
// keys of the order are taken out of the page's first and last document here:
// to fetch a row from SQLite, column by column, costs more than it costs to
// find it, and to have SQLite compute its keys, out of its JSON, as much as
// reading it. Only where a page can't be packed, or one of the two is in
// another form than ours, so that its keys are SQLite's to say, is all of it
// asked for again, row by row and with the keys.
func (s *SQLite) Find(ctx context.Context, q Query) (Page, error) {
	page, err := s.find(ctx, q, q.Into == nil || q.Order.ByDistance())
	if errors.Is(err, errNotPacked) {
		q.Into.clear()
		page, err = s.find(ctx, q, true)
	}
	return page, err
}

// errNotPacked: a page must be asked for row by row.
var errNotPacked = errors.New("resourceserver: a page that can't be packed")

// find is Find, with the rows one by one and with their keys, or packed.
func (s *SQLite) find(ctx context.Context, q Query, keyed bool) (Page, error) {
	steps, err := s.steps(ctx, &q)
	if err != nil {
		return Page{}, err
	}
	keyed = keyed || !steps[0].months && len(arms(&q)) > 1
	page := newPage(&q)
	if len(steps) == 1 {
		err := findPart(ctx, s.finds.get, &q, &steps[0], &page, keyed)
		return page, err
	}
	tx, err := s.finds.db.BeginTxx(ctx, &sql.TxOptions{ReadOnly: true}) // all parts of one moment
	if err != nil {
		return Page{}, sqliteError(ctx, "read", err)
	}
	// The transaction has a connection, and must not wait for another one to
	// prepare a statement on: all may be held by such as itself. What is new
	// is prepared on its own, and for the next behind its end.
	var missing []string
	defer func() {
		_ = tx.Rollback() // it has only read
		for _, text := range missing {
			_, _ = s.finds.get(ctx, text) //nolint:sqlclosecheck // it is kept; or the next one tries
		}
	}()
	get := func(ctx context.Context, text string) (*sqlx.Stmt, error) {
		if stmt := s.finds.known(text); stmt != nil {
			return tx.StmtxContext(ctx, stmt), nil
		}
		missing = append(missing, text)
		stmt, err := tx.PreparexContext(ctx, text)
		return stmt, sqliteError(ctx, "prepare", err)
	}
	for i := range steps {
		if err := findPart(ctx, get, &q, &steps[i], &page, keyed); err != nil {
			return Page{}, err
		}
		if page.More {
			break
		}
	}
	return page, nil
}

// step is a statement for a page: what it looks for beside the query's own
// condition, and among which rows.
type step struct {
	part   query.Node
	from   candidates
	months bool // instead of a range of them
	dense  bool // the place has so many that the newest of all soon fill the page
}

// steps are the statements for a page, each to be asked if those before it
// haven't filled it. A circle that they have in them is taken out of q.Where.
func (s *SQLite) steps(ctx context.Context, q *Query) ([]step, error) {
	worth, err := s.worthOf(ctx, q)
	if err != nil {
		return nil, err
	}
	from, usable, err := s.narrow(ctx, &q.Where, worth)
	if err != nil {
		return nil, err
	}
	months, err := s.byMonths(ctx, q, &from)
	if err != nil {
		return nil, err
	}
	parts, rest := q.rings(from.all())
	q.Where = rest
	steps := make([]step, len(parts))
	for i, part := range parts {
		steps[i] = step{part, from, months, from.all() && usable && q.newestOfPlace()}
		if from.all() && usable {
			steps[i].from = placesOf(&part) // of a ring
		}
	}
	return steps, nil
}

// findPart adds to the page the rows of one part of the query.
func findPart(ctx context.Context, get func(context.Context, string) (*sqlx.Stmt, error), q *Query, one *step, page *Page, keyed bool) error {
	text, args := findSQL(q, one, keyed)
	stmt, err := get(ctx, text) //nolint:sqlclosecheck // it is kept, or ends with the transaction
	if err != nil {
		return err
	}
	rows, err := stmt.QueryxContext(ctx, append(args, q.Limit-page.met+1, q.Skip)...)
	if err != nil {
		return sqliteError(ctx, "read", err)
	}
	if keyed {
		return readRows(ctx, rows, page, q)
	}
	return readPacked(ctx, rows, page, q)
}

// findSQL is the statement for one part of a query, but for its last two
// values: limit and offset. Behind the columns of a document stand the keys
// of the order, but for the last, which is the id; or else the rows come
// packed. Several arms can be ordered only by what is there.
//
// SQLite gives an aggregate its rows in the order of a subquery that has a
// LIMIT, as each page here has: TestAnswersOfPages.
func findSQL(q *Query, one *step, keyed bool) (text string, args []any) {
	if one.months {
		return monthsSQL(q, one, keyed)
	}
	wheres := []query.Node{q.Where}
	if one.from.all() {
		wheres = arms(q)
	}
	b := make([]byte, 0, 1024)
	if !keyed {
		b = append(b, "SELECT CAST(group_concat(packed, '"+rowMark+"') AS BLOB), count(*) FROM ("...)
	}
	for i, where := range wheres {
		if i > 0 {
			b = append(b, " UNION ALL "...)
		}
		if keyed {
			b = append(b, "SELECT "+sqliteColumns...)
		} else {
			b, args = append(b, "SELECT "+packedColumns...), append(args, maxPageBytes/(q.Limit+1))
		}
		if !keyed && len(wheres) > 1 {
			b = append(b, ", id"...)
		}
		if keyed || len(wheres) > 1 {
			for _, k := range q.Order[:len(q.Order)-1] {
				b, args = k.Field.AppendSelect(append(b, ", "...), args)
			}
		}
		if one.dense {
			b = append(b, " FROM inmuebles INDEXED BY inmuebles_date_place WHERE "...) // SQLite would sort the strip of longitudes
		} else {
			b, args = one.from.appendFrom(b, args)
		}
		b, args = where.AppendSQL(b, args)
		b = append(b, " AND "...)
		b, args = one.part.AppendSQL(b, args)
		if one.from.all() && q.alongPlaces() {
			b, args = appendAround(b, args, query.Join(where, one.part))
		}
	}
	b = append(b, " ORDER BY "...)
	b = q.Order.AppendSQL(b)
	// A bare ? as the limit has SQLite plan the statement anew each time.
	b = append(b, " LIMIT ?+0 OFFSET ?"...)
	if !keyed {
		b = append(b, ')')
	}
	return string(b), args
}

// What stands between the rows of a packed page, and between the columns of a
// row. JSON has neither, but as an escape; where an id or an owner has one, or
// a document that is no JSON, there are more of them than the page's rows
// make, and it isn't taken for packed.
const (
	rowMark    = "\x1e"
	columnMark = "\x1f"
)

// packedColumns are sqliteColumns in one. Its value is how long a document may
// be, so that a page's don't have to fit into memory whatever they are: of one
// that is longer the text stays out.
const packedColumns = "concat(id" + besides + "owner" + besides + "created_at" + besides + "updated_at" + besides +
	"iif(octet_length(document) <= ?, document, '')) AS packed"

const besides = ", '" + columnMark + "', "

// sqliteRow is a row of sqliteColumns.
type sqliteRow struct {
	id, owner        []byte
	created, updated sql.NullInt64
	document         []byte
}

func (r *sqliteRow) inmueble() (m Inmueble, err error) {
	err = m.parseStored(string(r.id), r.document)
	m.Owner, m.CreatedAt, m.UpdatedAt = string(r.owner), fromMilli(r.created), fromMilli(r.updated)
	return m, err
}

// keys are those of a row whose document is in our own form: it went the short
// way.
func (r *sqliteRow) keys(order query.Order) ([]any, error) {
	keys := make([]any, len(order))
	for i, k := range order {
		switch f := k.Field; {
		case filterFields[f.Name] != f: // no member of ours
			return nil, errNotPacked
		case f.Name == nameOwner:
			keys[i] = string(r.owner)
		case f.Name == nameCreatedAt:
			keys[i] = instant(r.created)
		case f.Name == nameUpdatedAt:
			keys[i] = instant(r.updated)
		case fieldIndex[f.Name] == 0:
			keys[i] = string(r.id)
		default:
			var ok bool
			if keys[i], ok = recipes[fieldIndex[f.Name]].keyIn(r.document); !ok {
				return nil, errNotPacked
			}
		}
	}
	return keys, nil
}

// instant is a time as a key.
func instant(ms sql.NullInt64) any {
	if !ms.Valid {
		return nil
	}
	return ms.Int64
}

// readPacked adds the rows of a packed page to a page until it is full, and
// closes them.
func readPacked(ctx context.Context, rows *sqlx.Rows, page *Page, q *Query) error {
	defer func() { _ = rows.Close() }() // an error of reading is rows.Err's
	var packed sql.RawBytes             // valid until rows are closed
	var n int
	if !rows.Next() {
		return sqliteError(ctx, "read", cmp.Or(rows.Err(), sql.ErrNoRows)) // an aggregate has one
	}
	if err := rows.Scan(&packed, &n); err != nil {
		return sqliteError(ctx, "read", err)
	}
	if n == 0 {
		return nil
	}
	if bytes.Count(packed, []byte(rowMark)) != n-1 || bytes.Count(packed, []byte(columnMark)) != 4*n {
		return errNotPacked
	}
	var r sqliteRow
	own := false
	for rest := []byte(packed); n > 0; n-- {
		if page.met == q.Limit || page.size >= maxPageBytes {
			page.More = true
			break
		}
		if rest = r.unpack(rest); len(r.document) == 0 {
			return errNotPacked
		}
		own = page.addStored(q.Into, &r)
		page.Skip = 0
		if page.First != nil {
			continue
		}
		if !own {
			return errNotPacked
		}
		var err error
		if page.First, err = r.keys(q.Order); err != nil {
			return err
		}
	}
	switch {
	case r.id == nil: // the page was full
		return nil
	case !own:
		return errNotPacked
	}
	var err error
	page.After, err = r.keys(q.Order)
	return err
}

// unpack takes the first row of a packed page, and returns what is behind it.
func (r *sqliteRow) unpack(b []byte) (rest []byte) {
	r.id, b = cut(b, columnMark)
	r.owner, b = cut(b, columnMark)
	created, b := cut(b, columnMark)
	updated, b := cut(b, columnMark)
	r.document, rest = cut(b, rowMark)
	number := func(text []byte) (n sql.NullInt64) {
		var err error
		n.Int64, err = strconv.ParseInt(string(text), 10, 64)
		n.Valid = err == nil // NULL is empty
		return n
	}
	r.created = number(created)
	if r.updated = r.created; !bytes.Equal(updated, created) {
		r.updated = number(updated)
	}
	return rest
}

// cut is what stands before a mark, all if there is none, and behind it.
func cut(b []byte, mark string) (before, behind []byte) {
	at := bytes.IndexByte(b, mark[0])
	if at < 0 {
		return b, nil
	}
	return b[:at], b[at+1:]
}

// readRows adds rows with their keys to a page until it is full, and closes
// them.
func readRows(ctx context.Context, rows *sqlx.Rows, page *Page, q *Query) error {
	defer func() { _ = rows.Close() }() // an error of reading is rows.Err's
	var r sqliteRow
	var id, owner, document sql.RawBytes // valid until the next row
	keys := make([]any, len(q.Order))
	into := []any{&id, &owner, &r.created, &r.updated, &document}
	for i := range keys[:len(keys)-1] {
		into = append(into, &keys[i])
	}
	for rows.Next() {
		if page.met == q.Limit || page.size >= maxPageBytes {
			page.More = true
			break
		}
		if err := rows.Scan(into...); err != nil {
			return sqliteError(ctx, "read", err)
		}
		r.id, r.owner, r.document = id, owner, document
		page.addStored(q.Into, &r)
		page.Skip = 0
		keys[len(keys)-1] = string(id)
		if page.First == nil {
			page.First = append([]any(nil), keys...)
		}
		page.After = keys
	}
	return sqliteError(ctx, "read", rows.Err())
}

// Count counts rows.
func (s *SQLite) Count(ctx context.Context, where query.Node, most int) (n int, err error) {
	from, _, err := s.narrow(ctx, &where, counted)
	if err != nil {
		return 0, err
	}
	text, args := from.appendFrom([]byte("SELECT count(*) FROM (SELECT 1"), nil)
	text, args = where.AppendSQL(text, args)
	if from.all() {
		text, args = appendAround(text, args, where)
	}
	stmt, err := s.finds.get(ctx, string(text)+" LIMIT ?)") //nolint:sqlclosecheck // it is kept
	if err != nil {
		return 0, err
	}
	if most == 0 {
		most = -1 // SQLite's word for no limit
	}
	err = stmt.QueryRowxContext(ctx, append(args, most)...).Scan(&n)
	return n, sqliteError(ctx, "count", err)
}

// unkeyed finds rows whose dates may lack a key, by an index that has only
// those: its condition must be the index's, word for word.
const unkeyed = `FROM inmuebles INDEXED BY inmuebles_unkeyed WHERE seq > ? AND
	(length(document ->> '$.date') <> 10 AND document ->> '$.date_key' IS NULL
     OR length(document ->> '$.date_in') <> 10 AND document ->> '$.date_in_key' IS NULL)
	ORDER BY seq LIMIT 1000`

// sweep gives keys to dates that have none: those of a release before there
// were any, or of another program.
func (s *SQLite) sweep(ctx context.Context) error {
	for last := int64(0); ; {
		var found []struct {
			Seq          int64
			Date, DateIn sql.NullString
		}
		if err := s.write.SelectContext(ctx, &found, `SELECT seq, document ->> '$.date' AS date, document ->> '$.date_in' AS datein `+unkeyed, last); err != nil {
			return sqliteError(ctx, "look for dates without a key", err)
		}
		for _, row := range found {
			last = row.Seq
			// Set only what differs: where the document has changed since, the
			// condition on the dates fails and its writer has set the keys.
			var set strings.Builder
			args := []any{}
			for _, d := range []struct{ name, text string }{{"date", row.Date.String}, {"date_in", row.DateIn.String}} {
				if key := query.DateKey(d.text); key != d.text {
					fmt.Fprintf(&set, ", '$.%s%s', ?", d.name, keySuffix)
					args = append(args, key)
				}
			}
			if len(args) == 0 {
				continue
			}
			args = append(args, row.Seq, row.Date, row.DateIn)
			if _, err := s.write.ExecContext(ctx, `UPDATE inmuebles SET document = json_set(document`+set.String()+`)
				WHERE seq = ? AND document ->> '$.date' IS ? AND document ->> '$.date_in' IS ?`, args...); err != nil {
				return sqliteError(ctx, "give a date its key", err)
			}
		}
		if len(found) < 1000 {
			return nil
		}
	}
}

// CursorKey is the secret by which cursors are authenticated, made by
// whichever server asks first.
func (s *SQLite) CursorKey(ctx context.Context) (key []byte, err error) {
	err = s.write.GetContext(ctx, &key, `INSERT INTO settings (name, value) VALUES ('cursor key', ?)
		ON CONFLICT (name) DO UPDATE SET value = value RETURNING value`, newCursorKey())
	return key, sqliteError(ctx, "read the key of the cursors", err)
}

func newCursorKey() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return key
}
