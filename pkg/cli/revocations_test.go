package cli

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/urbandata/urbandata/pkg/verify"
)

func TestFollow(t *testing.T) {
	const usual = "https://id.example/.well-known/jwks.json"
	for _, tc := range []struct {
		name           string
		issuer, keys   string
		allowHTTP      bool
		value          string
		silence        time.Duration
		want, problem  string
		optional, tell bool
	}{
		{name: "auto", issuer: "https://id.example", keys: usual, value: "auto", want: "https://id.example/.well-known/revocations", optional: true},
		{name: "beside the keys", issuer: "https://id.example", keys: "http://127.0.0.1:8000/.well-known/jwks.json", value: "auto", want: "http://127.0.0.1:8000/.well-known/revocations", optional: true},
		{name: "another maker's", issuer: "https://id.example/realms/r", keys: "https://id.example/realms/r/certs", value: "auto", want: "https://id.example/realms/r/.well-known/revocations", optional: true},
		{name: "keys from elsewhere, issuer without TLS", issuer: "http://id.example", keys: "https://keys.example/certs", value: "auto", tell: true},
		{name: "the same, allowed", issuer: "http://id.example", keys: "https://keys.example/certs", allowHTTP: true, value: "auto", want: "http://id.example/.well-known/revocations", optional: true},
		{name: "off", issuer: "https://id.example", keys: usual, value: "off"},
		{name: "a URL", issuer: "https://id.example", keys: usual, value: "https://feed.example/r", silence: -1, want: "https://feed.example/r"},
		{name: "a minute", issuer: "https://id.example", keys: usual, value: "auto", silence: time.Minute, want: "https://id.example/.well-known/revocations", optional: true},
		{name: "a second", issuer: "https://id.example", keys: usual, value: "auto", silence: time.Second, problem: "too short"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var told bytes.Buffer
			o := verify.Options{Issuer: tc.issuer, Audience: "a", JWKSURL: tc.keys, AllowHTTP: tc.allowHTTP}
			err := follow(&o, slog.New(slog.NewTextHandler(&told, nil)), "URBANDATA_API", tc.value, tc.silence)
			if tc.problem != "" {
				if err == nil || !strings.Contains(err.Error(), tc.problem) || !strings.Contains(err.Error(), "URBANDATA_API_REVOCATIONS_SILENCE") {
					t.Errorf("%v, want %q", err, tc.problem)
				}
				return
			}
			want := verify.RevocationOptions{}
			if tc.want != "" {
				want = verify.RevocationOptions{URL: tc.want, Optional: tc.optional, MaxSilence: tc.silence}
			}
			if err != nil || o.Revocations != want || (told.Len() > 0) != tc.tell {
				t.Errorf("%+v (%v, %q), want %+v", o.Revocations, err, told.String(), want)
			}
			if _, err := verify.New(o); err != nil {
				t.Error(err)
			}
		})
	}
}
