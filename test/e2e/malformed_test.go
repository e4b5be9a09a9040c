package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Where a malformed request goes.
const (
	authn     = "authn"
	inmuebles = "inmuebles"
)

// malformed is one request that no honest client sends. TOKEN stands for a
// good access token in it.
type malformed struct {
	name    string
	service string
	request string
	want    int  // the status; 0 for any below 500, or no answer at all
	hangUp  bool // the client closes after the request
}

// TestMalformed: whatever arrives, no service answers 5xx or keeps the client
// waiting, nothing is stored, and the next good request is served. Two answers
// of net/http itself, before any code of ours, are 5xx because HTTP says so:
// 501 for a transfer coding (RFC 9112 §6.1), 505 for a version (RFC 9110
// §15.6.6).
func TestMalformed(t *testing.T) {
	all := append(append(append(malformedBodies(), malformedFraming()...), malformedTargets()...), malformedGrants()...)
	if len(all) < 60 {
		t.Fatalf("only %d malformed requests", len(all))
	}
	everyWay(t, func(t *testing.T, in *installation) {
		c := in.client
		s := in.start(nil)
		auth, _ := s.auths()
		api, _ := s.apis()
		p := c.newPerson()
		c.register(auth, p)
		token := c.login(auth, p).Access
		stored := c.create(api, token, newInmueble())

		for _, m := range all {
			base := map[string]string{authn: auth, inmuebles: api}[m.service]
			a, err := sendRaw(base, strings.ReplaceAll(m.request, "TOKEN", token), m.hangUp)
			switch {
			case errors.Is(err, errNoAnswer) && m.want == 0:
			case err != nil:
				t.Errorf("%s: %v", m.name, err)
			case a.status >= 500 && a.status != m.want, m.want != 0 && a.status != m.want:
				t.Errorf("%s: %d, want %d: %.500s", m.name, a.status, m.want, a.body)
			case len(a.body) > 16<<10:
				t.Errorf("%s: an answer of %d bytes", m.name, len(a.body))
			case strings.Contains(string(a.body), token):
				t.Errorf("%s: the answer has the token", m.name)
			}
		}
		for _, base := range s.all() {
			c.want(http.StatusOK, http.MethodGet, base+"/readyz", nil)
		}
		list := into[[]object](c.want(http.StatusOK, http.MethodGet, api+"/inmuebles", nil, bearer(token)))
		if len(list) != 1 || list[0]["_id"] != stored["_id"] {
			t.Errorf("after all that, the list is %v", list)
		}
		c.create(api, c.login(auth, p).Access, newInmueble())
		t.Logf("%d malformed requests, no 5xx, no hang", len(all))
		s.stop()
	})
}

// request is a request with a body.
func request(method, target, headers, body string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s", method, target, headers, len(body), body)
}

const (
	authorized = "Authorization: Bearer TOKEN\r\n"
	asJSON     = "Content-Type: application/json\r\n"
)

// post is a POST of JSON to inmuebles.
func post(body string) string { return request("POST", "/inmuebles", authorized+asJSON, body) }

// member is a good inmueble but for one member.
func member(name, value string) string {
	m := newInmueble()
	delete(m, name)
	var b strings.Builder
	for k, v := range m {
		if s, ok := v.(string); ok {
			fmt.Fprintf(&b, "%q:%q,", k, s)
			continue
		}
		fmt.Fprintf(&b, "%q:%v,", k, v)
	}
	return "{" + b.String() + `"` + name + `":` + value + "}"
}

func malformedBodies() []malformed {
	var all []malformed
	for _, m := range []struct {
		name, body string
		want       int
	}{
		{"nothing", "", 400},
		{"null", "null", 422},
		{"a list", "[]", 422},
		{"a text", `"x"`, 422},
		{"an empty object", "{}", 422},
		{"half an object", `{"title":`, 400},
		{"no value", `{"title":}`, 400},
		{"a trailing comma", `{"title":"x",}`, 400},
		{"two documents", member("title", `"x"`) + member("title", `"y"`), 400},
		{"single quotes", "{'title':'x'}", 400},
		{"a comment", "/**/" + member("title", `"x"`), 400},
		{"a byte order mark", "\uFEFF" + member("title", `"x"`), 400},
		{"UTF-16", "\xff\xfe{\x00}\x00", 400},
		{"invalid UTF-8", member("title", "\"\xff\""), 400},
		{"a surrogate in UTF-8", member("title", "\"\xed\xa0\x80\""), 400},
		{"a lone high surrogate", member("title", `"\ud800"`), 400},
		{"a lone low surrogate", member("title", `"\udc00x"`), 400},
		{"U+0000", member("title", `"a\u0000b"`), 422},
		{"NaN", member("x_coord", "NaN"), 400},
		{"Infinity", member("x_coord", "Infinity"), 400},
		{"-Infinity", member("y_coord", "-Infinity"), 400},
		{"1e999", member("x_coord", "1e999"), 400},
		{"-1e999 for an integer", member("end_week", "-1e999"), 400},
		{"east of 180", member("x_coord", "180.1"), 422},
		{"2^63", member("build_status", "9223372036854775808"), 422},
		{"-2^63-1", member("build_status", "-9223372036854775809"), 422},
		{"2^64", member("boundary_id", "18446744073709551616"), 422},
		{"2^31", member("end_week", "2147483648"), 422},
		{"a number of 100,000 digits", member("end_week", strings.Repeat("9", 100_000)), 400},
		{"a leading zero", member("end_week", "07"), 400},
		{"a hexadecimal number", member("end_week", "0x7"), 400},
		{"text for a number", member("end_week", `"7"`), 422},
		{"null for a number", member("end_week", "null"), 422},
		{"a number for a bool", member("is_active", "1"), 422},
		{"an operator for a text", member("title", `{"$ne":null}`), 422},
		{"an operator as a member", member("$where", `"1"`), 422},
		{"an unknown member", member("surface", "1"), 422},
		{"another case", member("TITLE", `"x"`), 422},
		{"__proto__", member("__proto__", "{}"), 422},
		{"a member twice", strings.Replace(member("title", `"x"`), "{", `{"title":"y",`, 1), 400},
		{"a chosen _id", member("_id", `"x"`), 422},
		{"a chosen owner", member("owner", `"x"`), 422},
		{"a title of 17 MB", member("title", `"`+strings.Repeat("x", 17<<20)+`"`), 413},
		{"a title of 501 characters", member("title", `"`+strings.Repeat("ñ", 501)+`"`), 422},
		{"100,000 nested lists", strings.Repeat("[", 100_000), 400},
		{"100,000 nested objects", strings.Repeat(`{"a":`, 100_000), 400},
		{"65 nested lists in a member", member("title", strings.Repeat("[", 65)+strings.Repeat("]", 65)), 400},
	} {
		all = append(all, malformed{name: "body: " + m.name, service: inmuebles, request: post(m.body), want: m.want})
	}
	good := member("title", `"x"`)
	for _, m := range []struct {
		headers string
		want    int
	}{
		{"", 415},
		{"Content-Type: text/plain\r\n", 415},
		{"Content-Type: application/x-www-form-urlencoded\r\n", 415},
		{"Content-Type: multipart/form-data; boundary=x\r\n", 415},
		{"Content-Type: application/json; charset=utf-16\r\n", 415},
		{"Content-Type: ;;;\r\n", 415},
		{"Content-Type: application/jsonp\r\n", 415},
		{asJSON + "Content-Encoding: gzip\r\n", 415},
		{asJSON + "Expect: a-miracle\r\n", 417},
	} {
		all = append(all, malformed{
			name: fmt.Sprintf("header: %q", m.headers), service: inmuebles, request: request("POST", "/inmuebles", authorized+m.headers, good), want: m.want,
		})
	}
	return all
}

func malformedFraming() []malformed {
	const head = "POST /inmuebles HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + authorized + asJSON
	const chunked = head + "Transfer-Encoding: chunked\r\n\r\n"
	good := member("title", `"x"`)
	chunk := func(body string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(body), body) }
	get := func(headers string) string {
		return "GET /inmuebles HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + "\r\n"
	}
	return []malformed{
		{"chunks: rubbish", inmuebles, chunked + "zz\r\n" + good + "\r\n", 400, true},
		{"chunks: a negative size", inmuebles, chunked + "-1\r\nx\r\n", 400, true},
		{"chunks: a size beyond 64 bits", inmuebles, chunked + "fffffffffffffffff\r\nx", 400, true},
		{"chunks: a huge size", inmuebles, chunked + "7fffffffffffffff\r\nx", 400, true},
		{"chunks: longer than said", inmuebles, chunked + "5\r\n" + good + "\r\n0\r\n\r\n", 400, false},
		{"chunks: broken off", inmuebles, chunked + "ffff\r\n" + good, 400, true},
		{"chunks: no last one", inmuebles, chunked + chunk(good), 400, true},
		{"chunks: an endless extension", inmuebles, chunked + "5;" + strings.Repeat("x", 100_000), 400, true},
		{"chunks: 10,000 of one byte", inmuebles, chunked + strings.Repeat(chunk("["), 10_000) + "0\r\n\r\n", 400, false},
		{"length: longer than the body", inmuebles, head + "Content-Length: 100000\r\n\r\n" + good, 400, true},
		{"length: shorter than the body", inmuebles, head + "Content-Length: 10\r\n\r\n" + good, 400, false},
		{"length: negative", inmuebles, head + "Content-Length: -1\r\n\r\n" + good, 400, false},
		{"length: no number", inmuebles, head + "Content-Length: 1e3\r\n\r\n" + good, 400, false},
		{"length: beyond 64 bits", inmuebles, head + "Content-Length: 99999999999999999999\r\n\r\n" + good, 400, false},
		{"length: of 8 EiB", inmuebles, head + "Content-Length: 9223372036854775807\r\n\r\n" + good, 0, true},
		{"length: two of them", inmuebles, head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + good, 400, false},
		{"length: and chunks", inmuebles, head + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nzzz", 400, true},
		{"coding: unknown", inmuebles, head + "Transfer-Encoding: br, chunked\r\n\r\n" + chunk(good), 501, true},
		{"headers: no colon", inmuebles, get("rubbish\r\n"), 400, false},
		{"headers: a space in a name", inmuebles, get("a b: c\r\n"), 400, false},
		{"headers: NUL", inmuebles, get("a: \x00\r\n"), 400, false},
		{"headers: one of 100 KB", inmuebles, get("a: " + strings.Repeat("x", 100_000) + "\r\n"), 431, false},
		{"headers: 10,000 of them", inmuebles, get(strings.Repeat("a: b\r\n", 10_000)), 431, false},
		{"headers: a token twice", inmuebles, get(authorized + authorized), 400, false},
		{"headers: two tokens that differ", inmuebles, get(authorized + "access-token: x.y.z\r\n"), 400, false},
		{"headers: another scheme", inmuebles, get("Authorization: Basic YTpi\r\n"), 401, false},
		{"headers: broken off", inmuebles, "GET /inmuebles HTTP/1.1\r\nHost: x\r\nAuthor", 0, true},
		{"host: none", inmuebles, "GET /inmuebles HTTP/1.1\r\n" + authorized + "\r\n", 400, false},
		{"host: two", inmuebles, get("Host: y\r\n"), 400, false},
		{"protocol: HTTP/9.9", inmuebles, "GET /inmuebles HTTP/9.9\r\nHost: x\r\n\r\n", 505, false},
		{"protocol: HTTP/2 without asking", inmuebles, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, true},
		{"protocol: TLS", authn, "\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03" + strings.Repeat("\x00", 200), 0, true},
		{"protocol: rubbish", authn, strings.Repeat("\x00\xff", 5000) + "\r\n\r\n", 0, true},
		{"protocol: nothing", authn, "", 0, true},
		{"method: made up", inmuebles, request("FROBNICATE", "/inmuebles", authorized, ""), 405, false},
		{"method: TRACE", inmuebles, request("TRACE", "/inmuebles", authorized, ""), 405, false},
		{"method: PATCH", inmuebles, request("PATCH", "/inmuebles/x", authorized+asJSON, "{}"), 404, false},
		{"method: CONNECT", inmuebles, "CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 0, false},
		{"method: a control character", inmuebles, "GE\x01T /inmuebles HTTP/1.1\r\nHost: x\r\n\r\n", 400, false},
	}
}

func malformedTargets() []malformed {
	var many strings.Builder
	for i := range 2000 { // as many as fit into a header of 16 KiB
		fmt.Fprintf(&many, "&%x=", i)
	}
	var all []malformed
	for _, m := range []struct {
		target string
		want   int
	}{
		{"/inmuebles/%zz", 400},
		{"/inmuebles/%", 400},
		{"/inmuebles/%00", 404},
		{"/inmuebles/%ff%fe", 404},
		{"/inmuebles/..%2f..%2fetc%2fpasswd", 404},
		{"/inmuebles/../../etc/passwd", 404},
		{"/inmuebles/.", 404},
		{"/inmuebles/%2e%2e", 404},
		{"//inmuebles", 404},
		{"/inmuebles//", 404},
		{"/INMUEBLES", 404},
		{"/inmuebles/" + strings.Repeat("x", 5000), 404},
		{"/inmuebles/" + strings.Repeat("x", 100_000), 431},
		{"/inmuebles/{\"$ne\":null}", 404},
		{"/inmuebles/' OR 1=1", 400},
		{"/inmuebles?limit=0", 400},
		{"/inmuebles?limit=-1", 400},
		{"/inmuebles?limit=1001", 400},
		{"/inmuebles?limit=NaN", 400},
		{"/inmuebles?limit=99999999999999999999", 400},
		{"/inmuebles?limit=", 400},
		{"/inmuebles?limit=1&limit=2", 400},
		{"/inmuebles?cursor=x", 400},
		{"/inmuebles?cursor=%00", 400},
		{"/inmuebles?limit=%zz", 400},
		{"/inmuebles?a;b", 400},
		{"/inmuebles?colour=red", 400},
		{"/inmuebles?" + many.String(), 400},
		{"/inmuebles?" + strings.Repeat("a=b&", 10_000), 431},
		{"inmuebles", 400},
		{"*", 404},
		{"http://[::1", 400},
		{"/\xff", 404},
	} {
		all = append(all, malformed{
			name: fmt.Sprintf("target: %.60q", m.target), service: inmuebles,
			request: "GET " + m.target + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + authorized + "\r\n", want: m.want,
		})
	}
	return all
}

func malformedGrants() []malformed {
	var all []malformed
	const password = `"password":"una frase larga y mia"`
	for _, m := range []struct {
		path, body string
		want       int
	}{
		{"register", ``, 400},
		{"register", `{}`, 422},
		{"register", `{"email":"x",` + password + `}`, 422},
		{"register", `{"email":["a@ejemplo.example"],` + password + `}`, 422},
		{"register", `{"email":"a\u0000@ejemplo.example",` + password + `}`, 422},
		{"register", `{"email":"a@ejemplo.example","password":12345678}`, 422},
		{"register", `{"email":"a@ejemplo.example","password":"short"}`, 422},
		{"register", `{"email":"a@ejemplo.example","password":"` + strings.Repeat("ñ", 500) + `"}`, 422},
		{"register", `{"email":"a@ejemplo.example","password":"` + strings.Repeat("x", 10<<20) + `"}`, 413},
		{"register", `{"email":"a@ejemplo.example","email":"b@ejemplo.example",` + password + `}`, 400},
		{"register", `{"email":"a@ejemplo.example",` + password + `,"is_admin":true}`, 422},
		{"register", `{"email":"a@ejemplo.example",` + password + `,"first_name":"\ud800"}`, 400},
		{"register", strings.Repeat("[", 60_000), 400},
		{"token", `{}`, 400},
		{"token", `{"email":{"$gt":""},"password":{"$gt":""}}`, 400},
		{"token", `{"email":"' OR 1=1 --",` + password + `}`, 401},
		{"token", `{"email":null,` + password + `}`, 400},
		{"token", `{"email":"a@ejemplo.example",` + password + `,"audience":"a b"}`, 400},
		{"token/refresh", `{}`, 400},
		{"token/refresh", `{"refresh":7}`, 400},
		{"token/refresh", `{"refresh":""}`, 400},
		{"token/refresh", `{"refresh":"eyJhbGciOiJub25lIn0.e30."}`, 401},
		{"token/refresh", `{"refresh":"udr_` + strings.Repeat("A", 86) + `"}`, 401},
		{"token/refresh", `{"refresh":"` + strings.Repeat("A", 5000) + `"}`, 400},
		{"sign_out", `{"refresh":"x"}`, 401},
		{"sign_out", `{`, 400},
		{"frobnicate", `{}`, 404},
	} {
		all = append(all, malformed{
			name: fmt.Sprintf("%s: %.60s", m.path, m.body), service: authn,
			request: request("POST", "/authn/"+m.path, asJSON, m.body), want: m.want,
		})
	}
	return all
}
