package keys_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/urbandata/urbandata/keys"
)

// secret is the sealing key of 32 bytes that count up from 0xe0, which makes
// both alphabets of base64 differ.
var secret = func() []byte {
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = 0xe0 + byte(i)
	}
	return raw
}()

func TestParseSealingKey(t *testing.T) {
	key := func(enc *base64.Encoding) string { return enc.EncodeToString(secret) }
	for _, tc := range []struct {
		name, text string
		want       error
	}{
		{"base64", key(base64.StdEncoding), nil},
		{"base64 without padding", key(base64.RawStdEncoding), nil},
		{"base64url", key(base64.URLEncoding), nil},
		{"base64url without padding", key(base64.RawURLEncoding), nil},
		{"hexadecimal", hex.EncodeToString(secret), nil},
		{"upper-case hexadecimal", strings.ToUpper(hex.EncodeToString(secret)), nil},
		{"white space around", " \t" + key(base64.StdEncoding) + "\r\n", nil},
		{"empty", "", keys.ErrSealingKey},
		{"31 bytes", base64.StdEncoding.EncodeToString(secret[:31]), keys.ErrSealingKey},
		{"33 bytes", base64.StdEncoding.EncodeToString(append(secret[:32:32], 0)), keys.ErrSealingKey},
		{"a passphrase", "correct horse battery staple", keys.ErrSealingKey},
		{"64 letters that aren't hexadecimal", strings.Repeat("xy", 32), keys.ErrSealingKey},
		{"stray bits at the end", key(base64.RawStdEncoding)[:42] + "9", keys.ErrSealingKey},
		{"a line break inside", key(base64.StdEncoding)[:20] + "\n" + key(base64.StdEncoding)[20:], keys.ErrSealingKey},
		{"two of them", key(base64.RawStdEncoding) + " " + key(base64.RawStdEncoding), keys.ErrSealingKey},
		{"zeros", strings.Repeat("0", 64), keys.ErrSealingKey},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, err := keys.ParseSealingKey(tc.text)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if err != nil {
				if tc.text != "" && strings.Contains(err.Error(), tc.text) {
					t.Error("the error holds the text")
				}
				return
			}
			if k.Encode() != key(base64.RawURLEncoding) {
				t.Error("another key was read")
			}
		})
	}
}

func TestParseSealingKeys(t *testing.T) {
	a, b := keys.GenerateSealingKey(), keys.GenerateSealingKey()
	for _, tc := range []struct {
		name, file string
		found      []string
		want       error
		says       string
	}{
		{name: "one", file: a.Encode(), found: []string{a.ID()}},
		{name: "two and a comment", file: "# new\n" + a.Encode() + "\n\n  # old\n" + b.Encode() + "\n", found: []string{a.ID(), b.ID()}},
		{name: "none", file: "# nothing here\n", want: keys.ErrSealingKey, says: "none in the file"},
		{name: "empty", want: keys.ErrSealingKey, says: "none in the file"},
		{name: "a bad second line", file: a.Encode() + "\nhunter2\n", want: keys.ErrSealingKey, says: "line 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			found, err := keys.ParseSealingKeys(strings.NewReader(tc.file))
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if err != nil && (!strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "hunter2")) {
				t.Errorf("error is %q", err)
			}
			var ids []string
			for _, k := range found {
				ids = append(ids, k.ID())
			}
			if fmt.Sprint(ids) != fmt.Sprint(tc.found) {
				t.Errorf("keys %v, want %v", ids, tc.found)
			}
		})
	}
}

func TestSealer(t *testing.T) {
	ctx := t.Context()
	older, newer, foreign := keys.GenerateSealingKey(), keys.GenerateSealingKey(), keys.GenerateSealingKey()
	sealer := func(newest keys.SealingKey, more ...keys.SealingKey) keys.Sealer {
		s, err := keys.NewSealer(newest, more...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	box, err := sealer(older).Seal(ctx, []byte("private"), []byte("me"))
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := sealer(older).Seal(ctx, []byte("private"), []byte("me")); bytes.Equal(box, again) {
		t.Error("two seals gave the same box")
	}
	altered := bytes.Clone(box)
	altered[len(altered)-1] ^= 1
	for _, tc := range []struct {
		name          string
		sealer        keys.Sealer
		id            string
		box, identity []byte
		want          error
	}{
		{"the same key", sealer(older), older.ID(), box, []byte("me"), nil},
		{"an older key of two", sealer(newer, older), older.ID(), box, []byte("me"), nil},
		{"a foreign key", sealer(foreign), older.ID(), box, []byte("me"), keys.ErrSealed},
		{"the id of another key", sealer(newer, older), newer.ID(), box, []byte("me"), keys.ErrSealed},
		{"another identity", sealer(older), older.ID(), box, []byte("you"), keys.ErrSealed},
		{"an altered box", sealer(older), older.ID(), altered, []byte("me"), keys.ErrSealed},
		{"a box cut short", sealer(older), older.ID(), box[:10], []byte("me"), keys.ErrSealed},
		{"no box", sealer(older), older.ID(), nil, []byte("me"), keys.ErrSealed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plain, err := tc.sealer.Open(ctx, tc.id, tc.box, tc.identity)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if err == nil && string(plain) != "private" {
				t.Errorf("opened %q", plain)
			}
		})
	}
	if id := sealer(newer, older).ID(); id != newer.ID() {
		t.Errorf("%s seals, want the newest, %s", id, newer.ID())
	}
	if _, err := keys.NewSealer(keys.SealingKey{}); !errors.Is(err, keys.ErrSealingKey) {
		t.Errorf("the zero key: error %v, want ErrSealingKey", err)
	}
}

// However a secret reaches a log line, it isn't in it.
func TestSecretsDontPrint(t *testing.T) {
	k := keys.GenerateSealingKey()
	sealed := keys.Sealed("\x01\x02idSECRET")
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("x", "key", k, "sealed", sealed)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&log, verb+" "+verb+" "+verb+"\n", k, sealed, keys.Key{Sealed: sealed})
	}
	if err := json.NewEncoder(&log).Encode([]any{k, sealed, keys.Key{Sealed: sealed}}); err != nil {
		t.Fatal(err)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(k.Encode())
	for _, leak := range []string{
		k.Encode(), string(raw), hex.EncodeToString(raw), fmt.Sprint(raw)[1:20],
		"SECRET", hex.EncodeToString([]byte("SECRET")), base64.StdEncoding.EncodeToString([]byte("\x01\x02idSECRET")), "83 69 67",
	} {
		if strings.Contains(strings.ToLower(log.String()), strings.ToLower(leak)) {
			t.Errorf("%q is in\n%s", leak, log.String())
		}
	}
	if sealed.By() != "id" || keys.Sealed(nil).String() != "erased" {
		t.Errorf("%q, %q", sealed.By(), keys.Sealed(nil))
	}
}

func FuzzParseSealingKeys(f *testing.F) {
	f.Add("# a comment\n" + base64.StdEncoding.EncodeToString(secret))
	f.Add(hex.EncodeToString(secret) + "\n" + base64.RawURLEncoding.EncodeToString(secret))
	f.Add("=")
	f.Fuzz(func(t *testing.T, file string) {
		found, err := keys.ParseSealingKeys(strings.NewReader(file))
		if (err == nil) != (len(found) > 0) {
			t.Fatalf("%d keys, error %v", len(found), err)
		}
		for _, k := range found {
			if again, err := keys.ParseSealingKey(k.Encode()); err != nil || again != k {
				t.Fatalf("a key doesn't come back as it went: %v", err)
			}
		}
	})
}
