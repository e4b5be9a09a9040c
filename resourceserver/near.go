package resourceserver

import (
	"context"

	"github.com/urbandata/urbandata/resourceserver/query"
)

// rings splits a list that is ordered by distance into parts, each to be
// asked for when those before it haven't filled the page: so a page costs
// about what it holds, and not what the whole circle does. rest is what else
// q.Where asks for. There is one part, which is nothing more, for another
// order, and for a page that leaves out documents from the first on, because
// those are of all parts together; nor is a list split that isn't long.
func (q *Query) rings(long bool) (parts []query.Node, rest query.Node) {
	parts, rest = []query.Node{{}}, q.Where
	if q.After != nil {
		parts = q.Order.Seek(q.After)
	}
	if !q.Order.ByDistance() || q.Skip > 0 || !long {
		return parts, rest
	}
	var all []query.Node
	for i := range parts {
		var some []query.Node
		some, rest = q.Order.Rings(parts[i], &q.Where)
		all = append(all, some...)
	}
	return all, rest
}

// Find is one command, or one for each ring that a list by distance needs.
func (s *Mongo) Find(ctx context.Context, q Query) (Page, error) {
	if !q.Order.ByDistance() || q.Skip > 0 {
		return s.find(ctx, q)
	}
	page := newPage(&q)
	parts, rest := q.rings(true)
	for i := range parts {
		ring := q
		ring.Where, ring.After = query.Join(rest, parts[i]), nil
		ring.Limit -= page.met
		got, err := s.find(ctx, ring)
		if err != nil {
			return Page{}, err
		}
		page.Items, page.Unreadable = append(page.Items, got.Items...), append(page.Unreadable, got.Unreadable...)
		page.met, page.size = page.met+got.met, page.size+got.size
		if got.First != nil {
			if page.First == nil {
				page.First = got.First
			}
			page.After, page.Skip = got.After, got.Skip
		}
		if page.More = got.More || page.size >= maxPageBytes && i < len(parts)-1; page.More {
			break
		}
	}
	return page, nil
}

// newestOfPlace reports whether the query is about places alone, by date: the
// index on the date has where each document is.
func (q *Query) newestOfPlace() bool {
	return len(q.Order) == 2 && q.Order[0].Field == filterFields["date"] && !q.Where.All() && q.Where.OnlyOn(filterFields["x_coord"], filterFields["y_coord"])
}
