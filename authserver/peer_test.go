package authserver

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// Nobody's word but a configured proxy's is taken, and of that only what the
// proxy wrote itself.
func TestClientAddress(t *testing.T) {
	ours := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, tc := range []struct {
		name           string
		trusted        []netip.Prefix
		field, remote  string
		xff, forwarded []string
		want           string // as a network
	}{
		{"nobody is trusted", nil, "", "10.0.0.1:99", []string{"192.0.2.1"}, nil, "10.0.0.1"},
		{"a stranger is not", ours, "", "198.51.100.9:99", []string{"192.0.2.1"}, nil, "198.51.100.9"},
		{"a proxy is", ours, "", "10.0.0.1:99", []string{"192.0.2.1"}, nil, "192.0.2.1"},
		{"the last entry counts", ours, "", "10.0.0.1:99", []string{"203.0.113.5, 192.0.2.1"}, nil, "192.0.2.1"},
		{"over two lines too", ours, "", "10.0.0.1:99", []string{"203.0.113.5", "192.0.2.1"}, nil, "192.0.2.1"},
		{"two proxies", ours, "", "10.0.0.1:99", []string{"203.0.113.5, 192.0.2.1, 10.9.9.9"}, nil, "192.0.2.1"},
		{"only proxies", ours, "", "10.0.0.1:99", []string{"10.1.1.1"}, nil, "10.1.1.1"},
		{"rubbish", ours, "", "10.0.0.1:99", []string{"192.0.2.1, unknown"}, nil, "10.0.0.1"},
		{"a proxy that says nothing", ours, "", "10.0.0.1:99", nil, nil, "10.0.0.1"},
		{"with a port", ours, "", "10.0.0.1:99", []string{"192.0.2.1:4711"}, nil, "192.0.2.1"},
		{"IPv6", ours, "", "[fd00::1]:99", []string{"2001:db8:1:2:3:4:5:6"}, nil, "2001:db8:1:2::/64"},
		{"IPv4 in IPv6", ours, "", "[::ffff:10.0.0.1]:99", []string{"::ffff:192.0.2.1"}, nil, "192.0.2.1"},
		{"the other field is the client's", ours, "", "10.0.0.1:99", []string{"192.0.2.1"}, []string{"for=203.0.113.5"}, "192.0.2.1"},
		{"Forwarded", ours, FieldForwarded, "10.0.0.1:99", []string{"203.0.113.5"}, []string{`for=203.0.113.5, For="192.0.2.1:80";proto=https`}, "192.0.2.1"},
		{"Forwarded, IPv6", ours, FieldForwarded, "10.0.0.1:99", nil, []string{`proto=https;for="[2001:db8:1:2::9]:80"`}, "2001:db8:1:2::/64"},
		{"Forwarded, hidden", ours, FieldForwarded, "10.0.0.1:99", nil, []string{`for=_hidden`}, "10.0.0.1"},
		{"Forwarded without for", ours, FieldForwarded, "10.0.0.1:99", nil, []string{`proto=https`}, "10.0.0.1"},
		{"no address at all", ours, "", "@", nil, nil, ""},
	} {
		r := &http.Request{RemoteAddr: tc.remote, Header: http.Header{}}
		r.Header["X-Forwarded-For"], r.Header["Forwarded"] = tc.xff, tc.forwarded
		p := peer{Network: networkOf(Proxies{tc.trusted, tc.field}.client(r))}
		if got := p.network(); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func FuzzForwarded(f *testing.F) {
	f.Add(`for=192.0.2.1, for="[2001:db8::1]:80";proto=https`)
	f.Add("192.0.2.1, 10.0.0.1:80, unknown,,")
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	f.Fuzz(func(t *testing.T, text string) {
		r := &http.Request{RemoteAddr: "10.0.0.1:99", Header: http.Header{"Forwarded": {text}, "X-Forwarded-For": {text}}}
		for _, field := range []string{FieldForwarded, FieldXForwardedFor} {
			if p := networkOf((Proxies{trusted, field}).client(r)); !p.IsValid() || p.Bits() != 32 && p.Bits() != 64 {
				t.Errorf("%s %q: %v", field, text, p)
			}
		}
	})
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"Mozilla/5.0 (X11)": "Mozilla/5.0 (X11)", "a\x1b[31mb\r\n\x00": "a[31mb", "\xff\xfe": "", "\u202eabc": "abc",
		strings.Repeat("é", 200): strings.Repeat("é", 128),
	} {
		if got := printable(in, maxUserAgent); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
