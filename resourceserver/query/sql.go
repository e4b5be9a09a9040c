package query

// AppendSQL appends the tree as a condition of SQLite's, with a ? for every
// value, and the values. No text of a request becomes part of the SQL.
// Patterns are matched by the function inmuebles_like(pattern, text, fold),
// which is [MatchPattern], words by inmuebles_word(word, text), which is
// [MatchWord], and places by inmuebles_distance and inmuebles_inside.
func (n *Node) AppendSQL(b []byte, args []any) ([]byte, []any) {
	switch n.Op {
	case And, Or:
		if len(n.Nodes) == 0 {
			if n.Op == And {
				return append(b, '1'), args
			}
			return append(b, '0'), args
		}
		b = append(b, '(')
		for i := range n.Nodes {
			if i > 0 {
				if n.Op == And {
					b = append(b, " AND "...)
				} else {
					b = append(b, " OR "...)
				}
			}
			b, args = n.Nodes[i].AppendSQL(b, args)
		}
		return append(b, ')'), args
	case In, Nin:
		if len(n.List) == 0 {
			if n.Op == Nin {
				return append(b, '1'), args
			}
			return append(b, '0'), args
		}
		b = append(b, n.Field.Column...)
		if n.Op == Nin {
			b = append(b, " NOT"...)
		}
		b = append(b, " IN ("...)
		for i, v := range n.List {
			if i > 0 {
				b = append(b, ',')
			}
			b, args = append(b, '?'), append(args, v)
		}
		return append(b, ')'), args
	case Near:
		return n.Value.(*Circle).appendSQL(b, args)
	case Inside:
		return n.Value.(*Area).appendSQL(b, args)
	case Null:
		return append(append(b, n.Field.Column...), " IS NULL"...), args
	case NotNull:
		return append(append(b, n.Field.Column...), " IS NOT NULL"...), args
	case Like, Nlike, Ilike, Nilike:
		if n.Op == Nlike || n.Op == Nilike {
			b = append(b, "NOT "...)
		}
		b = append(b, "inmuebles_like(?,"...)
		b = append(b, n.Field.text(n.Field.Column)...)
		if n.Op == Ilike || n.Op == Nilike {
			b = append(b, ",1)"...)
		} else {
			b = append(b, ",0)"...)
		}
		return b, append(args, n.Value)
	case Word, Nword:
		if n.Op == Nword {
			b = append(b, "NOT "...)
		}
		b = append(append(b, "inmuebles_word(?,"...), n.Field.Column...)
		return append(b, ')'), append(args, n.Value)
	}
	b = append(b, n.Field.Column...)
	b = append(b, sqlOperators[n.Op]...)
	return b, append(args, n.Value)
}

var sqlOperators = [...]string{Eq: " = ?", Neq: " <> ?", Gt: " > ?", Gte: " >= ?", Lt: " < ?", Lte: " <= ?"}

// text is where the text of a field is.
func (f *Field) text(otherwise string) string {
	if f.Raw != "" {
		return f.Raw
	}
	return otherwise
}

// AppendSelect appends the field as a column of a SELECT, by the name that an
// order has.
func (f *Field) AppendSelect(b []byte, args []any) ([]byte, []any) {
	if f.from != nil {
		b, args = f.from.appendDistance(b, args)
		b = append(b, " AS "...)
	}
	return append(b, f.Column...), args
}

// AppendSQL appends the order as the terms of an ORDER BY.
func (o Order) AppendSQL(b []byte) []byte {
	for i, k := range o {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, k.Field.Column...)
		if k.Desc {
			b = append(b, " DESC"...)
		}
		// SQLite takes a null for the least of values.
		if k.Field.Nullable && k.NullsFirst == k.Desc {
			if k.NullsFirst {
				b = append(b, " NULLS FIRST"...)
			} else {
				b = append(b, " NULLS LAST"...)
			}
		}
	}
	return b
}

// Replaced is the tree with another column for a field.
func (n *Node) Replaced(field *Field, column string) Node {
	with := *n
	if n.Field == field {
		f := *field
		f.Column = column
		with.Field = &f
	}
	with.Nodes = nil
	for i := range n.Nodes {
		with.Nodes = append(with.Nodes, n.Nodes[i].Replaced(field, column))
	}
	return with
}
