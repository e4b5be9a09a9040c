package verify

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/urbandata/urbandata/pkg/verify/pace"
)

// accepted is what encoding/json makes of what the strict reader accepts.
func accepted(t *testing.T, text string, into any) {
	t.Helper()
	if !json.Valid([]byte(text)) {
		t.Fatalf("accepted, but not valid JSON: %q", text)
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("accepted, but encoding/json says %v: %q", err, text)
	}
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"a":[1,-2.5e+3,true,false,null,"\u00e9\ud83d\ude00\n"]}`, `{"a":1,"\u0061":2}`, `{"a":"\ud800"}`,
		`{"a":01}`, `[[[[]]]]`, `{"a":1}x`, "{\"a\":\"\xff\"}", `{"a":-}`, `{"a":1e}`, ` { } `, strings.Repeat(`[`, 300),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := reader{s: s}
		if r.value() == nil && r.end() == nil {
			var v any
			if !json.Valid([]byte(s)) {
				t.Fatalf("accepted, but not valid JSON: %q", s)
			}
			// encoding/json refuses numbers that no float64 can hold.
			var tooBig *json.UnmarshalTypeError
			if err := json.Unmarshal([]byte(s), &v); err != nil && !errors.As(err, &tooBig) {
				t.Fatalf("encoding/json: %v: %q", err, s)
			}
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(`{"alg":"EdDSA","kid":"k","typ":"at+jwt"}`)
	f.Add(`{"alg":"none"}`)
	f.Add(`{"\u0061lg":"EdDSA","crit":["b64"],"b64":false,"jwk":{"kty":"oct"}}`)
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHeader(s)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v is not %v", err, ErrMalformed)
			}
			return
		}
		var m map[string]json.RawMessage
		accepted(t, s, &m)
		for name, got := range map[string]string{"alg": h.alg, "kid": h.kid, "typ": h.typ} {
			want := ""
			if raw, ok := m[name]; ok {
				accepted(t, string(raw), &want)
			}
			if got != want {
				t.Fatalf("%s is %q, encoding/json says %q", name, got, want)
			}
		}
	})
}

func FuzzClaims(f *testing.F) {
	f.Add(`{"iss":"i","aud":["a","b"],"sub":"s","exp":1.5,"iat":-1,"nbf":1e3,"scope":"a b","roles":["user"],"token_type":"access"}`)
	f.Add(`{"iss":"i","iss":"j"}`)
	f.Add(`{"exp":1e999}`)
	f.Add(`{"exp":"1"}`)
	f.Fuzz(func(t *testing.T, s string) {
		var p payload
		if err := parseClaims(s, &p); err != nil {
			if !errors.Is(err, ErrClaims) {
				t.Fatalf("%v is not %v", err, ErrClaims)
			}
			return
		}
		var m map[string]json.RawMessage
		accepted(t, s, &m)
		for name, got := range map[string]string{"iss": p.Issuer, "sub": p.Subject, "jti": p.ID} {
			want := ""
			if raw, ok := m[name]; ok {
				accepted(t, string(raw), &want)
			}
			if got != want {
				t.Fatalf("%s is %q, encoding/json says %q", name, got, want)
			}
		}
		if raw, ok := m["exp"]; ok {
			var want float64
			accepted(t, string(raw), &want)
			if diff := want - float64(p.Expiry); diff < 0 || diff >= 1 {
				t.Fatalf("exp is %d, encoding/json says %v", p.Expiry, want)
			}
		}
	})
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"k","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"k","n":"AQAB","e":"AQAB"},{"kty":"AKP","pub":"AA"},{"kty":"oct","k":""}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","KTY":"EC","kid":"k","n":null,"e":[]}]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		set, err := ParseKeySet(doc)
		if err != nil {
			if !errors.Is(err, ErrKeySet) || set != nil {
				t.Fatalf("%v is not %v", err, ErrKeySet)
			}
			return
		}
		n := 0
		for kid, keys := range set.keys {
			for _, k := range keys {
				n++
				if k.id != kid || kid == "" {
					t.Fatalf("key %q under %q", k.id, kid)
				}
				// Any key must bear any signature.
				for _, size := range []int{0, 1, 63, 64, 65, 255, 256, 257, 512} {
					if k.public.verify([]byte("x"), make([]byte, size)) {
						t.Fatalf("%s took %d zeros as a signature", k.alg, size)
					}
				}
			}
		}
		if n != set.Len() || n == 0 {
			t.Fatalf("%d keys, Len says %d", n, set.Len())
		}
	})
}

// A key that we take is the key that jwx takes.
func FuzzKey(f *testing.F) {
	f.Add(`{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","use":"sig"}`)
	f.Add(`{"kty":"EC","crv":"P-256","kid":"k","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`)
	f.Add(`{"kty":"RSA","alg":"PS256","e":"AQAB","kid":"2011-04-29","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}`)
	f.Add(`{"kty":"RSA","kid":"k","n":"AAEAAQ","e":"AAEAAQ"}`)
	f.Fuzz(func(t *testing.T, text string) {
		_, k, err := parseKey(text)
		if err != nil {
			return
		}
		theirs, err := jwk.ParseKey([]byte(text))
		if err != nil {
			t.Fatalf("accepted %s, but jwx says %v", text, err)
		}
		var raw any
		if err := theirs.Raw(&raw); err != nil {
			t.Fatalf("accepted %s, but jwx says %v", text, err)
		}
		same := false
		switch ours := k.public.(type) {
		case edKey:
			same = ed25519.PublicKey(ours).Equal(raw.(ed25519.PublicKey))
		case ecKey:
			same = ours.Equal(raw)
		case pkcs1Key:
			same = ours.Equal(raw)
		case pssKey:
			same = ours.Equal(raw)
		}
		if !same || theirs.KeyID() != k.id {
			t.Fatalf("%s is another key for jwx", text)
		}
	})
}

func FuzzCacheControl(f *testing.F) {
	f.Add("public, max-age=300", "10")
	f.Add(`max-age="300", no-cache="a,b"`, "")
	f.Add("MAX-AGE=99999999999999999999999", "-1")
	f.Add(`private="x\", max-age=1`, "x")
	f.Fuzz(func(t *testing.T, control, age string) {
		p := freshness(http.Header{"Cache-Control": {control}, "Age": {age}})
		if p.Left < 0 || p.Left > maxDelta*time.Second || !p.Said && p != (pace.Promise{}) {
			t.Fatalf("%+v", p)
		}
	})
}

// Whatever an endpoint answers, byte for byte: it is a usable set within all
// bounds, or an error that has a name and leaves nothing behind.
func FuzzAnswer(f *testing.F) {
	const keys = `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/jwk-set+json\r\nCache-Control: max-age=300\r\nETag: \"a\"\r\n\r\n"+keys), false)
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nAge: 5\r\n\r\n"+keys), true)
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"key\r\n0\r\n\r\n"), true)
	f.Add([]byte("HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\n\r\n"), true)
	f.Add([]byte("HTTP/1.1 304 Not Modified\r\n\r\n"), false)
	f.Add([]byte("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 99999999999\r\n\r\n"), true)
	f.Add([]byte("HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\n\r\n"), true)
	f.Add([]byte("HTTP/1.1 302 Found\r\nLocation: /again\r\n\r\n"), true)
	f.Add([]byte("HTTP/1.0 200\r\n\r\n"+strings.Repeat(" ", 5000)), true)
	f.Add([]byte("SSH-2.0-OpenSSH\r\n"), true)
	f.Fuzz(func(t *testing.T, raw []byte, conditional bool) {
		o, err := Options{Issuer: "i", Audience: "a", JWKSURL: "https://id.example/jwks.json", Cache: CacheOptions{MaxKeySetBytes: 4096}}.resolve()
		if err != nil {
			t.Fatal(err)
		}
		o.HTTPClient = &http.Client{Transport: answerer(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host != "id.example" || r.URL.Scheme != "https" {
				t.Fatalf("asked %s", r.URL)
			}
			return http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), r)
		})}
		etag := ""
		if conditional {
			etag = `"before"`
		}
		got, err := newFetcher(o).fetch(context.Background(), etag)
		switch {
		case err != nil && !errors.Is(err, ErrFetch) && !errors.Is(err, ErrKeySet):
			t.Fatalf("%v has no class", err)
		case err != nil && got.set != nil:
			t.Fatal("a set with an error")
		case err == nil && got.set == nil && (got.status != http.StatusNotModified || !conditional):
			t.Fatalf("no set and no error: %+v", got)
		case err == nil && got.set != nil && (got.set.Len() == 0 || len(got.doc) > 4096 || got.status != http.StatusOK):
			t.Fatalf("%+v", got)
		case got.wait < 0 || got.wait > pace.MaxPatience:
			t.Fatalf("a wait of %v", got.wait)
		}
	})
}

type answerer func(*http.Request) (*http.Response, error)

func (f answerer) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A file that anybody may have written holds a set, or an error; never a
// panic, never a set of another issuer.
func FuzzKeyFile(f *testing.F) {
	dir := f.TempDir()
	now := time.Unix(2_000_000_000, 0)
	file := &keyFile{path: filepath.Join(dir, "good"), issuer: "i", url: "u", limit: 4096}
	doc := []byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)
	if err := file.save(doc, now, time.Minute); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(file.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"issuer":"i","url":"u","jwks":"e30=","sha256":""}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := *file
		file.path = filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(file.path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		set, fetched, life, err := file.load(now)
		switch {
		case (set == nil) == (err == nil):
			t.Fatalf("%v, %v", set, err)
		case err == nil && (set.Len() == 0 || fetched.After(now.Add(maxLeeway)) || life < 0):
			t.Fatalf("%d keys of %v for %v", set.Len(), fetched, life)
		}
	})
}

func FuzzToken(f *testing.F) {
	set, err := ParseKeySet([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	if err != nil {
		f.Fatal(err)
	}
	v, err := New(Options{Issuer: "i", Audience: "a", Keys: set})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("eyJhbGciOiJFZERTQSIsImtpZCI6ImsiLCJ0eXAiOiJhdCtqd3QifQ.e30.AAAA")
	f.Add("..")
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, raw string) {
		claims, err := v.Verify(context.Background(), raw)
		if claims != nil || err == nil {
			t.Fatalf("accepted %q without a private key", raw)
		}
		if reason := Reason(err); reason == "other" {
			t.Fatalf("%v has no class", err)
		}
		r := &http.Request{Header: http.Header{"Authorization": {"Bearer " + raw}}}
		if got, err := TokenFromRequest(r); err == nil && got != strings.TrimLeft(raw, " ") {
			t.Fatalf("read %q from %q", got, raw)
		}
	})
}

// Whatever an issuer signs as revocations is what encoding/json reads there,
// within the bounds, or an error.
func FuzzRevocations(f *testing.F) {
	f.Add(`{"iss":"i","iat":1.5,"exp":2,"seq":3,"token_life":300,"revocations":[{"sid":"a","exp":4},{"sub":"b","before":1,"exp":4},{"client_id":"c","exp":4.5},{"jti":"d","exp":4}]}`)
	f.Add(`{"iss":"i","iat":1,"exp":2,"seq":3,"after":2,"revocations":[{"device":"x","exp":4},{"sid":"\u0061","exp":4}],"more":{}}`)
	f.Add(`{"iss":"i","iat":1,"exp":2,"seq":1,"after":2,"revocations":[]}`)
	f.Add(`{"iss":"i","iat":1,"exp":2,"seq":1e999,"revocations":[{"sid":"a","sub":"b","exp":1}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		const limit = 4
		st, err := parseStatement(s, limit)
		if err != nil {
			if !errors.Is(err, ErrRevocations) || st != nil {
				t.Fatalf("%v, %v", err, st)
			}
			return
		}
		var m struct {
			Issuer  string `json:"iss"`
			Seq     *int64 `json:"seq"`
			After   *int64 `json:"after"`
			Entries []map[string]json.RawMessage
		}
		var names map[string]json.RawMessage
		accepted(t, s, &names)
		accepted(t, string(names["iss"]), &m.Issuer)
		accepted(t, string(names["revocations"]), &m.Entries)
		known := 0
		for _, e := range m.Entries {
			for kind, name := range []string{bySession: "sid", bySubject: "sub", byClient: "client_id", byID: "jti"} {
				raw, ok := e[name]
				if !ok {
					continue
				}
				var value string
				accepted(t, string(raw), &value)
				if got := st.ends[known]; got.kind != kind || got.value != value || value == "" || len(value) > maxEndValue {
					t.Fatalf("entry %d is %+v, encoding/json says %s %q", known, got, name, value)
				}
				known++
			}
		}
		if st.issuer != m.Issuer || len(st.ends) != known || known > limit || st.seq < 0 || st.after < 0 || st.after > st.seq && st.follows {
			t.Fatalf("%+v with %d entries", st, known)
		}
		table := newEndTable()
		table.add(st.ends, time.Unix(0, 0))
		if table.size() > limit {
			t.Fatalf("%d entries are held", table.size())
		}
	})
}

// Whatever a stream sends is cut into events within the bound, and no event is
// made up.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("id: 1\ndata: a.b.c\n\n: comment\n\ndata\n\n"))
	f.Add([]byte("data:a\r\ndata: b\r\n\r\nevent: x\ndata: c\n\nevent:message\ndata: d\n\ndata: no end"))
	f.Add([]byte(strings.Repeat("data: x\n", 20)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		const limit = 64
		events := eventReader{r: bufio.NewReaderSize(bytes.NewReader(raw), 16), limit: limit}
		for {
			data, err := events.next()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, ErrRevocations) {
					t.Fatalf("%v has no class", err)
				}
				return
			}
			if len(data) > limit {
				t.Fatalf("an event of %d bytes", len(data))
			}
			for line := range strings.SplitSeq(data, "\n") {
				if !bytes.Contains(raw, []byte(line)) {
					t.Fatalf("%q is not in what came", line)
				}
			}
		}
	})
}
