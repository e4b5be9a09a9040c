package authserver

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

func TestParseRefreshToken(t *testing.T) {
	first, _ := newFamily(uuid.New())
	good := first.String()
	for _, tc := range []struct {
		name, text string
		want       error
	}{
		{"good", good, nil},
		{"empty", "", errMalformedToken},
		{"no prefix", strings.TrimPrefix(good, refreshPrefix), errMalformedToken},
		{"prefix in another case", "UDR_" + strings.TrimPrefix(good, refreshPrefix), errMalformedToken},
		{"too short", good[:len(good)-1], errMalformedToken},
		{"too long", good + "A", errMalformedToken},
		{"padded", good + "==", errMalformedToken},
		{"other alphabet", strings.Replace(good, good[10:11], "+", 1), errMalformedToken},
		{"bits beyond the end", good[:len(good)-1] + "_", errMalformedToken},
		{"white space", " " + good[1:], errMalformedToken},
		{"line break inside", good[:20] + "\n" + good[21:], errMalformedToken},
		{"a JWT", "eyJhbGciOiJub25lIn0.e30.", errMalformedToken},
	} {
		got, err := parseRefreshToken(tc.text)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if tc.want == nil && (got != first || got.String() != tc.text) {
			t.Errorf("%s: doesn't come back", tc.name)
		}
	}
}

func FuzzParseRefreshToken(f *testing.F) {
	first, _ := newFamily(uuid.New())
	f.Add(first.String())
	f.Add("udr_")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseRefreshToken(text); err == nil && got.String() != text {
			t.Errorf("%q is read, but is written %q: one token, two spellings", text, got.String())
		}
	})
}

// family is a session as the database would keep it, rotated by the same
// rules as rotateSQL.
type family struct {
	row    session
	tokens []refreshToken // every token that was ever current
	times  []time.Time    // when each was superseded
}

func newTestFamily(now time.Time) *family {
	first, markKey := newFamily(uuid.New())
	return &family{
		row: session{
			MarkKey: markKey, CurrentHash: first.hash(), RotatedAt: now.UnixMilli(),
			IdleExpiresAt: now.Add(time.Hour).UnixMilli(), ExpiresAt: now.Add(2 * time.Hour).UnixMilli(),
		},
		tokens: []refreshToken{first},
	}
}

func (f *family) rotate(now time.Time, grace time.Duration) {
	current, nonce := f.tokens[len(f.tokens)-1], newNonce()
	next := current.next(nonce).marked(f.row.MarkKey)
	entry := superseded(current.hash(), nonce, now)
	if f.row.RotatedAt < now.Add(-grace).UnixMilli() {
		f.row.History = entry
	} else {
		f.row.History = (entry + f.row.History)[:min(len(entry+f.row.History), historyMax*historyEntry)]
	}
	f.row.CurrentHash, f.row.RotatedAt = next.hash(), now.UnixMilli()
	f.tokens, f.times = append(f.tokens, next), append(f.times, now)
}

// However a family was rotated, a token is answered with the current one as
// long as it was superseded within the grace, and is reuse after that.
func TestJudgeAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const grace = 10 * time.Second
		now := time.UnixMilli(1_800_000_000_000)
		f := newTestFamily(now)
		for range rapid.IntRange(0, 40).Draw(t, "rotations") {
			now = now.Add(time.Duration(rapid.IntRange(0, 15_000).Draw(t, "ms")) * time.Millisecond)
			f.rotate(now, grace)
		}
		now = now.Add(time.Duration(rapid.IntRange(0, 15_000).Draw(t, "ms later")) * time.Millisecond)
		current := f.tokens[len(f.tokens)-1]
		for i, shown := range f.tokens {
			got, err := f.row.judge(now, shown, grace)
			if i == len(f.tokens)-1 || now.Sub(f.times[i]) <= grace {
				if err != nil || got != current {
					t.Fatalf("token %d of %d, in its grace: %v", i, len(f.tokens), err)
				}
			} else if !errors.Is(err, ErrReused) {
				t.Fatalf("token %d of %d, superseded %v ago: %v, want ErrReused", i, len(f.tokens), now.Sub(f.times[i]), err)
			}
		}
	})
}

func TestJudge(t *testing.T) {
	const grace = 10 * time.Second
	start := time.UnixMilli(1_800_000_000_000)
	ended := start.UnixMilli()
	for _, tc := range []struct {
		name   string
		change func(f *family, shown *refreshToken)
		want   error
	}{
		{"current", func(f *family, shown *refreshToken) { *shown = f.tokens[2] }, nil},
		{"in its grace", func(*family, *refreshToken) {}, nil},
		{"made up", func(_ *family, shown *refreshToken) { shown.secret[0] ^= 1 }, ErrInvalidGrant},
		{"mark of another family", func(_ *family, shown *refreshToken) {
			*shown = shown.marked(make([]byte, markKeySize))
		}, ErrInvalidGrant},
		{"ended", func(f *family, _ *refreshToken) { f.row.EndedAt = &ended }, ErrInvalidGrant},
		{"disabled", func(f *family, _ *refreshToken) { f.row.Disabled = true }, ErrInvalidGrant},
		{"idle", func(f *family, _ *refreshToken) { f.row.IdleExpiresAt = start.UnixMilli() }, ErrInvalidGrant},
		{"too old", func(f *family, _ *refreshToken) { f.row.ExpiresAt = start.UnixMilli() }, ErrInvalidGrant},
		{"history lost", func(f *family, _ *refreshToken) { f.row.History = "" }, ErrReused},
		{"history of somebody else", func(f *family, _ *refreshToken) {
			f.row.History = strings.Replace(f.row.History, f.row.History[70:80], "0123456789", 1)
		}, ErrInvalidGrant},
		{"history not hex", func(f *family, _ *refreshToken) {
			f.row.History = f.row.History[:70] + strings.Repeat("z", len(f.row.History)-70)
		}, ErrReused},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newTestFamily(start)
			f.rotate(start, grace)
			f.rotate(start, grace)
			shown := f.tokens[1]
			tc.change(f, &shown)
			got, err := f.row.judge(start.Add(time.Second), shown, grace)
			if !errors.Is(err, tc.want) || tc.want == ErrInvalidGrant && errors.Is(err, ErrReused) { //nolint:errorlint // tells the two apart
				t.Fatalf("%v, want %v", err, tc.want)
			}
			if err == nil && got != f.tokens[2] {
				t.Error("not the current token")
			}
			if err != nil && got != (refreshToken{}) && got.secret == f.tokens[2].secret {
				t.Error("the current token came with an error")
			}
		})
	}
}
