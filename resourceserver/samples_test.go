package resourceserver

import (
	"fmt"
	"strings"
	"testing"
)

// TestSamples: the same for the same seed, valid, in Spain, with ids of their
// own.
func TestSamples(t *testing.T) {
	const many = 3000
	ids, titles := map[string]bool{}, map[string]bool{}
	var first []string
	for r, err := range Samples(7, many, "alice") {
		must(t, err)
		must(t, r.Validate())
		if r.XCoord < spainWest || r.XCoord > spainEast || r.YCoord < spainSouth || r.YCoord > spainNorth || !isDate(r.Date) || !isDate(r.DateIn) || r.Owner != "alice" {
			t.Errorf("%s", asJSON(r.Inmueble))
		}
		if strings.Contains(r.Description, "%!") {
			t.Errorf("%s", r.Description)
		}
		ids[r.ID], titles[r.Title] = true, true
		if len(first) < 3 {
			first = append(first, asJSON(r.Inmueble))
		}
	}
	if len(ids) != many || len(titles) < 300 {
		t.Errorf("%d ids, %d titles", len(ids), len(titles))
	}
	var again []string
	for r, err := range Samples(7, 3, "alice") {
		must(t, err)
		again = append(again, asJSON(r.Inmueble))
	}
	if fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("%s\nagain %s", first, again)
	}
	for r, err := range Samples(8, 3, "alice") {
		must(t, err)
		if ids[r.ID] {
			t.Errorf("two seeds make %s", r.ID)
		}
	}
}
