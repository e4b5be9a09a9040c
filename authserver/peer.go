package authserver

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humamux"
)

// peer is where a request comes from, as far as it can be known.
type peer struct {
	UserAgent string       // cut to maxUserAgent bytes, printable; "" if there is none
	Network   netip.Prefix // IPv4 /32 or IPv6 /64; invalid if the address isn't known
	Refresh   string       // a refresh token that it showed at login, to be known again
}

// network is how a peer's network is stored and compared: "192.0.2.7",
// "2001:db8:1:2::/64", or "".
func (p peer) network() string {
	switch {
	case !p.Network.IsValid():
		return ""
	case p.Network.IsSingleIP():
		return p.Network.Addr().String()
	}
	return p.Network.String()
}

const maxUserAgent = 256

type peerKey struct{}

// peerOf is the peer of the request that ctx belongs to.
func peerOf(ctx context.Context) peer {
	p, _ := ctx.Value(peerKey{}).(peer)
	return p
}

// withPeer is a huma middleware: it notes where the request comes from.
func (s *Server) withPeer(ctx huma.Context, next func(huma.Context)) {
	r, _ := humamux.Unwrap(ctx)
	next(huma.WithContext(ctx, s.notePeer(ctx.Context(), r, ctx.SetHeader)))
}

// notePeer puts where a request comes from into its context, and how its
// answer gets the fields that say what is left of a limit.
func (s *Server) notePeer(ctx context.Context, r *http.Request, setHeader func(name, value string)) context.Context {
	s.noticeProxy(r)
	ctx = context.WithValue(ctx, peerKey{}, peer{
		UserAgent: printable(r.UserAgent(), maxUserAgent), Network: networkOf(s.proxies.client(r)),
	})
	return context.WithValue(ctx, limitStateKey{}, &limitState{set: setHeader})
}

// noticeProxy says once that there seems to be a proxy that nobody configured:
// all its clients would share the limits of one network.
func (s *Server) noticeProxy(r *http.Request) {
	if r.Header.Get(FieldXForwardedFor) == "" && r.Header.Get(FieldForwarded) == "" {
		return
	}
	if a := parseAddress(r.RemoteAddr); (a.IsPrivate() || a.IsLoopback()) && !s.proxies.ours(a) {
		s.proxyNotice.Do(func() {
			s.log.Warn("requests seem to come through a proxy that is not among --trusted-proxies: all its clients count as one network",
				slog.String("proxy", a.String()))
		})
	}
}

// printable is text without what a terminal or a page could stumble over, cut
// to limit bytes.
func printable(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, text)
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "")
	}
	return strings.TrimSpace(text)
}

// networkOf is the part of an address that one subscriber has: IPv4 whole, of
// IPv6 the first 64 bits.
func networkOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	network, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // the address isn't known
	}
	return network
}

// The fields in which proxies say whom they speak for.
const (
	FieldXForwardedFor = "X-Forwarded-For"
	FieldForwarded     = "Forwarded" // RFC 7239
)

// Proxies says which peers are proxies of ours, whose word about the client is
// taken, and in which field they give it. Exactly one field is read: a proxy
// passes on the one that it doesn't know as the client wrote it.
type Proxies struct {
	Networks []netip.Prefix // none: nobody's word is taken
	Field    string         // [FieldXForwardedFor], also if empty, or [FieldForwarded]
}

// client is the address that a request comes from. Each proxy appends who
// spoke to it, so the list is read from its end, and the first that is no
// proxy of ours is the client: all before that is hearsay. An entry that
// can't be read ends the search at the last proxy.
func (p Proxies) client(r *http.Request) netip.Addr {
	address := parseAddress(r.RemoteAddr)
	if !p.ours(address) {
		return address
	}
	hops := p.hops(r.Header)
	for _, hop := range slices.Backward(hops) {
		said := parseAddress(hop)
		if !said.IsValid() {
			return address
		}
		address = said
		if !p.ours(address) {
			break
		}
	}
	return address
}

func (p Proxies) ours(a netip.Addr) bool {
	return slices.ContainsFunc(p.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// hops are the addresses of the field, as they were written, the nearest last.
func (p Proxies) hops(h http.Header) (hops []string) {
	if p.Field != FieldForwarded {
		for _, line := range h.Values(FieldXForwardedFor) {
			for hop := range strings.SplitSeq(line, ",") {
				hops = append(hops, strings.TrimSpace(hop))
			}
		}
		return hops
	}
	for _, line := range h.Values(FieldForwarded) {
		for element := range strings.SplitSeq(line, ",") { // an address has no comma, however it is quoted
			hop := ""
			for pair := range strings.SplitSeq(element, ";") {
				if name, value, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && strings.EqualFold(name, "for") {
					hop = strings.Trim(value, `"`)
				}
			}
			hops = append(hops, hop)
		}
	}
	return hops
}

// parseAddress reads an address with or without port and brackets; it is
// invalid where there is none.
func parseAddress(text string) netip.Addr {
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return a.Unmap().WithZone("")
	}
	host, _, err := net.SplitHostPort(text)
	if err != nil {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}
