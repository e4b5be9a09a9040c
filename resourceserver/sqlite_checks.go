package resourceserver

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/jmoiron/sqlx"
)

var _ Checker = (*SQLite)(nil)

// sqliteValid is a condition that is true of what parseStored takes, of a row
// that is called so.
func sqliteValid(row string) string {
	document := row + ".document"
	all := []string{
		`json_type(` + document + `) = 'object'`,
		// Text in the key, as in validID.
		fmt.Sprintf(`%s.id <> '' AND %[1]s.id NOT IN ('.', '..') AND length(%[1]s.id) <= %d`, row, maxID),
		`instr(CAST(` + row + `.id AS BLOB), x'00') = 0`, sqliteNoSurrogate(row + ".id"),
		`coalesce(json_type(` + document + `, '$._id'), 'text') = 'text'`,
		// No name twice in one object.
		`NOT EXISTS (SELECT 1 FROM json_tree(` + document + `) WHERE typeof(key) = 'text' GROUP BY parent, key HAVING count(*) > 1)`,
		// No half of a surrogate pair, in any text or name.
		`(instr(lower(` + document + `), '\ud') = 0 OR NOT EXISTS (SELECT 1 FROM json_tree(` + document + `)
			WHERE type = 'text' AND NOT ` + sqliteNoSurrogate("atom") + ` OR typeof(key) = 'text' AND NOT ` + sqliteNoSurrogate("key") + `))`,
	}
	for i := range fields[1:] {
		f := &fields[1+i]
		rule := f.sqliteRule(document)
		if !f.required {
			rule = `json_type(` + document + `, '$.` + f.name + `') IS NULL OR ` + rule
		}
		all = append(all, `(`+rule+`)`)
	}
	return "((" + strings.Join(all, "\n AND ") + ") IS TRUE)"
}

// sqliteNoSurrogate is true of text that has no half of a pair, which SQLite
// makes bytes of that are no UTF-8: ED and then one of A0 to BF.
func sqliteNoSurrogate(text string) string {
	var none []string
	for second := 0xA0; second <= 0xBF; second++ {
		none = append(none, fmt.Sprintf(`instr(CAST(%s AS BLOB), x'ED%X') = 0`, text, second))
	}
	return "(instr(CAST(" + text + " AS BLOB), x'ED') = 0 OR " + strings.Join(none, " AND ") + ")"
}

// sqliteRule is the field's part of the condition, where it is there.
func (f *field) sqliteRule(document string) string {
	kind := `json_type(` + document + `, '$.` + f.name + `')`
	value, raw := `(`+document+` ->> '$.`+f.name+`')`, `(`+document+` -> '$.`+f.name+`')`
	number := kind + ` IN ('integer', 'real')`
	// An escape of U+0000 is looked for in the JSON: SQLite ends the text there.
	// Two backslashes are one that escapes nothing.
	text := fmt.Sprintf(`%s = 'text' AND length(%s) <= %d AND instr(replace(%s, '\\', ''), '\u0000') = 0`, kind, value, f.bound, raw)
	switch f.rule() {
	case ruleBool:
		return kind + ` IN ('true', 'false')`
	case ruleNumber:
		return fmt.Sprintf(`%s AND %s BETWEEN -%d AND %[3]d`, number, value, f.bound)
	case ruleInteger:
		return fmt.Sprintf(`%s AND %s BETWEEN %d AND %d AND %[2]s = CAST(%[2]s AS INTEGER)`, number, value, math.MinInt32, math.MaxInt32)
	case ruleNullable:
		return fmt.Sprintf(`%s = 'null' OR %s AND %s BETWEEN %d AND %d AND %[3]s = CAST(%[3]s AS INTEGER)`, kind, number, value, math.MinInt32, math.MaxInt32)
	case ruleDigits: // as setDigits
		digits := `ltrim(` + raw + `, '-')`
		whole := fmt.Sprintf(`substr(%s, 1, instr(%[1]s || '.', '.') - 1)`, digits)
		return fmt.Sprintf(`%s OR %s AND CASE WHEN instr(lower(%s), 'e') > 0
				THEN abs(CAST(%[3]s AS REAL)) <= 1e22 AND (abs(CAST(%[3]s AS REAL)) >= 9007199254740992 OR CAST(%[3]s AS REAL) = CAST(CAST(%[3]s AS REAL) AS INTEGER))
				ELSE trim(substr(%[4]s, length(%[5]s) + 2), '0') = '' AND (length(%[5]s) <= %[6]d OR %[5]s = '1%[7]s') END`,
			text, number, raw, digits, whole, maxIntegerDigits, strings.Repeat("0", maxIntegerDigits))
	}
	return text
}

// sqliteTriggers are the names and statements of the triggers of a choice.
func sqliteTriggers(c Checks) [][2]string {
	if c == ChecksOff {
		return nil
	}
	do := `SELECT RAISE(ABORT, 'the row is no valid inmueble (urbandata inmuebles checks)')`
	if c == ChecksWarn {
		do = `INSERT INTO check_findings (seq, at) VALUES (new.seq, ` + sqliteNow + `) ON CONFLICT DO UPDATE SET at = excluded.at`
	}
	valid, was := sqliteValid("new"), sqliteValid("old")
	var all [][2]string
	for _, t := range [][3]string{
		{"insert", "INSERT", "NOT " + valid},
		{"update", "UPDATE OF id, document", "NOT " + valid + "\n AND " + was},
	} {
		name := "inmuebles_check_" + string(c) + "_" + t[0]
		all = append(all, [2]string{name, `CREATE TRIGGER ` + name + ` AFTER ` + t[1] + ` ON inmuebles WHEN ` + t[2] + `
BEGIN
 ` + do + `;
END`})
	}
	return all
}

// SetChecks makes the triggers, or removes them.
func (s *SQLite) SetChecks(ctx context.Context, c Checks) error {
	return s.begin(ctx, func(tx *sqlx.Tx) error {
		for _, other := range []Checks{ChecksWarn, ChecksError} {
			for _, t := range sqliteTriggers(other) {
				if _, err := tx.ExecContext(ctx, `DROP TRIGGER IF EXISTS `+t[0]); err != nil {
					return sqliteError(ctx, "set the checks", err)
				}
			}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM check_findings`); err != nil {
			return sqliteError(ctx, "set the checks", err)
		}
		for _, t := range sqliteTriggers(c) {
			if _, err := tx.ExecContext(ctx, t[1]); err != nil {
				return sqliteError(ctx, "set the checks", err)
			}
		}
		return nil
	})
}

// CheckStatus reads the triggers, and every row.
func (s *SQLite) CheckStatus(ctx context.Context) (CheckStatus, error) {
	is := CheckStatus{Checks: ChecksOff}
	for _, c := range []Checks{ChecksWarn, ChecksError} {
		for _, t := range sqliteTriggers(c) {
			var stands []string
			if err := s.read.SelectContext(ctx, &stands, `SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?`, t[0]); err != nil {
				return CheckStatus{}, sqliteError(ctx, "look at the checks", err)
			}
			if len(stands) > 0 {
				is.Checks, is.Other = c, is.Other || stands[0] != t[1]
			}
		}
	}
	err := s.read.QueryRowxContext(ctx, `SELECT count(*), count(f.seq) FROM inmuebles i LEFT JOIN check_findings f ON f.seq = i.seq WHERE NOT `+sqliteValid("i")).
		Scan(&is.Invalid, &is.Found)
	return is, sqliteError(ctx, "count what isn't valid", err)
}
