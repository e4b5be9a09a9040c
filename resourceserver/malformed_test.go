package resourceserver

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// malformed lists bodies that must be refused: the status, and the JSON
// Pointer of the member that is named; "-" is for a problem that names none,
// "*" for one that names some place. Where several are named, the pointer is
// one of them.
var malformed = []struct {
	name, body string
	status     int
	pointer    string
}{
	// Numbers.
	{"NaN", body("x_coord", "NaN"), 400, "*"},
	{"-NaN as text", body("x_coord", `"NaN"`), 422, "/x_coord"},
	{"Infinity", body("x_coord", "Infinity"), 400, "*"},
	{"-Infinity", body("y_coord", "-Infinity"), 400, "*"},
	{"1e999", body("x_coord", "1e999"), 400, "/x_coord"},
	{"-1e999", body("y_coord", "-1e999"), 400, "/y_coord"},
	{"1e999 for an integer", body("end_week", "1e999"), 400, "/end_week"},
	{"1e999 for other_id", body("other_id", "1e999"), 400, "/other_id"},
	{"too many digits for other_id", body("other_id", "10000000000000000000001"), 422, "/other_id"},
	{"a number of 100,000 digits", body("end_week", strings.Repeat("9", 100_000)), 400, "/end_week"},
	{"a number of 100,000 digits for other_id", body("other_id", strings.Repeat("9", 100_000)), 400, "/other_id"},
	{"65 digits for other_id", body("other_id", strings.Repeat("9", 65)), 422, "/other_id"},
	{"east of 180", body("x_coord", "180.0000001"), 422, "/x_coord"},
	{"west of -180", body("x_coord", "-181"), 422, "/x_coord"},
	{"north of 90", body("y_coord", "90.5"), 422, "/y_coord"},
	{"2^63", body("build_status", "9223372036854775808"), 422, "/build_status"},
	{"2^63-1", body("build_status", "9223372036854775807"), 422, "/build_status"},
	{"-2^63-1", body("start_month", "-9223372036854775809"), 422, "/start_month"},
	{"2^64", body("property_type", "18446744073709551616"), 422, "/property_type"},
	{"2^31", body("end_week", "2147483648"), 422, "/end_week"},
	{"-2^31-1", body("end_week", "-2147483649"), 422, "/end_week"},
	{"2^31 for an optional integer", body("boundary_id", "2147483648"), 422, "/boundary_id"},
	{"1e300 for an integer", body("end_week", "1e300"), 422, "/end_week"},
	{"a fraction for an integer", body("end_week", "7.5"), 422, "/end_week"},
	{"a fraction for other_id", body("other_id", "1.5"), 422, "/other_id"},
	{"a hexadecimal number", body("end_week", "0x10"), 400, "*"},
	{"a leading zero", body("end_week", "07"), 400, "*"},
	{"a leading plus", body("end_week", "+7"), 400, "*"},
	{"a trailing point", body("x_coord", "7."), 400, "*"},

	// Types.
	{"text for an integer", body("end_week", `"7"`), 422, "/end_week"},
	{"a bool for an integer", body("end_week", "true"), 422, "/end_week"},
	{"null for a required integer", body("end_week", "null"), 422, "/end_week"},
	{"null for a required text", body("date", "null"), 422, "/date"},
	{"null for a required bool", body("is_active", "null"), 422, "/is_active"},
	{"null for other_id", body("other_id", "null"), 422, "/other_id"},
	{"null for a text that isn't nullable", body("title", "null"), 422, "/title"},
	{"null for an integer that isn't nullable", body("date_diff", "null"), 422, "/date_diff"},
	{"a list for other_id", body("other_id", "[1]"), 422, "/other_id"},
	{"an object for other_id", body("other_id", `{"$gt":""}`), 422, "/other_id"},
	{"an object for a text", body("title", `{"$ne":null}`), 422, "/title"},
	{"a list for a number", body("x_coord", "[1]"), 422, "/x_coord"},
	{"a number for a text", body("title", "5"), 422, "/title"},
	{"a number for a bool", body("is_active", "1"), 422, "/is_active"},
	{"text for a bool", body("is_active", `"true"`), 422, "/is_active"},

	// Text.
	{"a lone high surrogate", body("title", `"\ud800"`), 400, "*"},
	{"a lone low surrogate", body("description", `"\udc00"`), 400, "*"},
	{"surrogates the wrong way round", body("title", `"\udc00\ud800"`), 400, "*"},
	{"a lone surrogate in a name", body(`title`, `"x"`, "x", `{"\ud800":1}`), 400, "*"},
	{"invalid UTF-8", body("title", "\"\xff\""), 400, "*"},
	{"overlong UTF-8", body("title", "\"\xc0\x80\""), 400, "*"},
	{"a surrogate in UTF-8", body("title", "\"\xed\xa0\x80\""), 400, "*"},
	{"NUL", body("title", `"a\u0000b"`), 422, "/title"},
	{"NUL in other_id", body("other_id", `"\u0000"`), 422, "/other_id"},
	{"a control character", body("title", "\"a\nb\""), 400, "*"},
	{"a long title", body("title", `"`+strings.Repeat("ñ", 501)+`"`), 422, "/title"},
	{"a long description", body("description", `"`+strings.Repeat("x", 20_001)+`"`), 422, "/description"},
	{"a long other_id", body("other_id", `"`+strings.Repeat("x", 65)+`"`), 422, "/other_id"},
	{"a long date", body("date", `"`+strings.Repeat("x", 65)+`"`), 422, "/date"},
	{"a title of 17 MB", body("title", `"`+strings.Repeat("x", 17<<20)+`"`), 413, "-"},

	// Members.
	{"a chosen _id", body("_id", `"65f1c0ffee65f1c0ffee65f1"`), 422, "/_id"},
	{"a chosen _id that is null", body("_id", "null"), 422, "/_id"},
	{"a chosen owner", body("owner", `"alice"`), 422, "/owner"},
	{"a chosen created_at", body("created_at", `"2020-01-01T00:00:00Z"`), 422, "/created_at"},
	{"an unknown member", body("surface", "80"), 422, "/surface"},
	{"an unknown member with a pointer's characters", body("a/b~c", "80"), 422, "/a~1b~0c"},
	{"an operator of MongoDB", body("$set", "{}"), 422, "/$set"},
	{"__proto__", body("__proto__", "{}"), 422, "/__proto__"},
	{"a member in another case", body("TITLE", `"x"`), 422, "/TITLE"},
	{"a required member in another case", body("end_week", "", "End_Week", "7"), 422, "/End_Week"},
	{"a member twice", strings.Replace(body(), `"title":`, `"title":"a","title":`, 1), 400, "/title"},
	{"a member twice, escaped", strings.Replace(body(), `"title":`, `"t\u0069tle":"a","title":`, 1), 400, "/title"},
	{"an unknown member twice inside", body("x", `{"a":1,"a":2}`), 400, "/x/a"},
	{"a required member missing", body("end_week", ""), 422, "/end_week"},
	{"every member missing", "{}", 422, "/other_id"},

	// Bodies.
	{"no body", "", 400, "-"},
	{"a space", " ", 400, "*"},
	{"null", "null", 422, ""},
	{"true", "true", 422, ""},
	{"a number", "5", 422, ""},
	{"a text", `"x"`, 422, ""},
	{"a list in a list", "[[" + body() + "]]", 422, "/0"},
	{"a bad one in a list", "[" + body() + "," + body("x_coord", "181") + "]", 422, "/1/x_coord"},
	{"one that isn't JSON in a list", "[" + body() + "," + body("x_coord", "NaN") + "]", 400, "*"},
	{"a chosen _id in a list", "[" + body("_id", `"x"`) + "]", 422, "/0/_id"},
	{"a NUL in a list", "[" + body() + "," + body("title", `"\u0000"`) + "]", 422, "/1/title"},
	{"a number for other_id in a list", "[" + body("other_id", "1.5") + "]", 422, "/0/other_id"},
	{"1,001 in a list", "[" + strings.TrimSuffix(strings.Repeat(body()+",", 1001), ",") + "]", 422, ""},
	{"an empty list", "[]", 422, ""},
	{"a byte order mark", "\uFEFF" + body(), 400, "*"},
	{"UTF-16", "{\x00}\x00", 400, "*"},
	{"not JSON", "title=x", 400, "*"},
	{"XML", "<inmueble/>", 400, "*"},
	{"half a body", body()[:50], 400, "*"},
	{"something behind", body() + "x", 400, "*"},
	{"a second body", body() + body(), 400, "*"},
	{"a trailing comma", strings.TrimSuffix(body(), "}") + ",}", 400, "*"},
	{"a comment", "/* */" + body(), 400, "*"},
	{"single quotes", "{'title':'x'}", 400, "*"},
	{"a name that is no text", "{1:2}", 400, "*"},
	{"100,000 nested lists", strings.Repeat("[", 100_000), 400, "*"},
	{"100,000 nested objects", strings.Repeat(`{"a":`, 100_000), 400, "*"},
	{"65 levels in a member", body("title", strings.Repeat("[", 65)+strings.Repeat("]", 65)), 400, "*"},
}

// TestMalformed: whatever is sent, the answer is a 4xx that names the place,
// and nothing is stored.
func TestMalformed(t *testing.T) {
	store, _ := openSQLite(t)
	c := newClient(t, store)
	if len(malformed) < 60 {
		t.Fatalf("only %d malformed requests", len(malformed))
	}
	insert(t, store, "a")
	check := func(t *testing.T, a answer, status int, pointer string) {
		t.Helper()
		p := decode[problem](a.want(status))
		if len(a.Body.String()) > 8<<10 {
			t.Errorf("an answer of %d bytes", a.Body.Len())
		}
		if pointer == "-" || pointer == "*" && len(p.Errors) > 0 {
			return
		}
		for _, e := range p.Errors {
			at := "" // the whole body
			if e.Pointer != nil {
				at = *e.Pointer
			}
			if at == pointer && e.Parameter == "" && e.Detail != "" {
				return
			}
		}
		t.Errorf("no error at %q in %.600s", pointer, a.Body)
	}
	for _, tt := range malformed {
		t.Run(tt.name, func(t *testing.T) {
			asked := *c
			asked.t = t
			check(t, asked.do("POST", "/inmuebles", tt.body), tt.status, tt.pointer)
			put := strings.Replace(tt.body, "{", `{"_id":"a",`, 1)
			switch {
			case strings.Contains(tt.name, "chosen"), strings.HasPrefix(tt.body, "<"), !strings.HasPrefix(tt.body, "{"), tt.body == "{}":
				return // not about members, or right in a PUT
			}
			check(t, asked.do("PUT", "/inmuebles/a", put), tt.status, tt.pointer)
			switch {
			case strings.Contains(tt.name, "missing"), strings.Contains(tt.name, "isn't nullable"):
				return // right in a PATCH
			}
			check(t, asked.do("PATCH", "/inmuebles/a", tt.body), tt.status, tt.pointer)
		})
	}
	for _, contentType := range []string{
		"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "application/cbor",
		"application/merge-patch+json", "application/json; charset=latin1", "application/jsonx", "json", "*/*", ";",
	} {
		t.Run("Content-Type "+contentType, func(t *testing.T) {
			asked := c.with("Content-Type", contentType)
			asked.t = t
			check(t, asked.do("POST", "/inmuebles", body()), http.StatusUnsupportedMediaType, "-")
		})
	}
	for name, a := range map[string]func(*client) answer{
		"compressed": func(c *client) answer { return c.with("Content-Encoding", "gzip").do("POST", "/inmuebles", body()) },
		"another _id in a PUT": func(c *client) answer {
			return c.do("PUT", "/inmuebles/a", body("_id", `"b"`))
		},
		"no _id in a PUT":   func(c *client) answer { return c.do("PUT", "/inmuebles/a", body()) },
		"PATCH of all":      func(c *client) answer { return c.do("PATCH", "/inmuebles", body()) },
		"POST to one":       func(c *client) answer { return c.do("POST", "/inmuebles/a", body()) },
		"PUT to all":        func(c *client) answer { return c.do("PUT", "/inmuebles", body()) },
		"DELETE of all":     func(c *client) answer { return c.do("DELETE", "/inmuebles", "") },
		"a path below":      func(c *client) answer { return c.do("GET", "/inmuebles/a/b", "") },
		"a doubled slash":   func(c *client) answer { return c.do("DELETE", "/inmuebles//", "") },
		"an unknown filter": func(c *client) answer { return c.do("GET", "/inmuebles?surface=x", "") },
	} {
		t.Run(name, func(t *testing.T) {
			asked := *c
			asked.t = t
			if got := a(&asked); got.Code < 400 || got.Code >= 500 {
				t.Errorf("status %s: %s", strconv.Itoa(got.Code), got.Body)
			}
		})
	}
	ids, unreadable := walk(t, store, 10)
	wantIDs(t, ids, "a")
	wantIDs(t, unreadable)
	m, err := store.Get(t.Context(), "a")
	must(t, err)
	wantSame(t, m, sample("a"))
}

// FuzzRequest: no body makes a 5xx, and what is stored can be read.
func FuzzRequest(f *testing.F) {
	for _, tt := range malformed {
		if len(tt.body) < 2000 {
			f.Add(tt.body)
		}
	}
	f.Add(body())
	store, _ := openSQLite(f)
	c := newClient(f, store)
	f.Fuzz(func(t *testing.T, body string) {
		asked := *c
		asked.t = t
		asked.log.Reset()
		a := asked.do("POST", "/inmuebles", body)
		switch {
		case a.Code == http.StatusCreated:
			asked.do("GET", a.Header().Get("Location"), "").want(200)
			m := decode[map[string]any](a)
			if len(m) != len(fields)+3 {
				t.Errorf("%d members in %s", len(m), a.Body)
			}
		case a.Code < 400 || a.Code >= 500:
			t.Errorf("status %d: %s", a.Code, a.Body)
		}
	})
}
