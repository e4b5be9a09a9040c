package authserver

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A session is a family of refresh tokens. This file holds what needs no
// database: how tokens are made and recognised, and what becomes of one that
// isn't current.
//
//	            refresh                refresh
//	token 0 ───────────────▶ token 1 ───────────▶ token 2 …   current
//	   │                        │
//	   │ again within the grace │                 hands out the current token,
//	   ├────────────────────────┴───────────────▶ whichever it is by then
//	   │ again after the grace
//	   └───────────────────────────────────────▶ the whole family ends
//
// A token is
//
//	udr_ base64url( session id (16) ‖ secret (32) ‖ mark (16) )
//
// The database keeps only SHA-256(secret) of the current token. How then can
// the current token be handed out to someone who shows the one before? The
// next secret is HMAC-SHA256(key: this secret, nonce), and the nonce is
// stored: who holds a superseded secret and the nonces since can compute the
// current one; who holds the database alone can compute none.
//
// The mark is HMAC-SHA256(key: the session's mark key, secret), cut to 16
// bytes. It recognises every token that the family ever had, for as long as
// the session is kept, so a stolen token is told from a made-up one however
// old it is. The session id is no secret (it is the sid claim), so without a
// mark anybody could end anybody's session by showing rubbish.

const (
	refreshPrefix = "udr_" // lets secret scanners find a leaked one
	secretSize    = 32
	markSize      = 16
	markKeySize   = 32
)

var (
	// errMalformedToken is returned for text that isn't a refresh token's.
	errMalformedToken = errors.New("authserver: not a refresh token")

	// ErrInvalidGrant says that a refresh token gives nothing: it is made
	// up, its session has ended or expired, or its user is disabled.
	ErrInvalidGrant = errors.New("authserver: the refresh token is not valid")

	// ErrReused says that a superseded refresh token was shown after its
	// grace. Its family has been ended. It wraps [ErrInvalidGrant].
	ErrReused = fmt.Errorf("%w: it was used before", ErrInvalidGrant)
)

// refreshToken is a refresh token taken apart.
type refreshToken struct {
	session uuid.UUID
	secret  [secretSize]byte
	mark    [markSize]byte
}

var refreshEncoding = base64.RawURLEncoding.Strict()

// parseRefreshToken takes a token apart, or returns errMalformedToken.
func parseRefreshToken(text string) (refreshToken, error) {
	var t refreshToken
	body, ok := strings.CutPrefix(text, refreshPrefix)
	if !ok || len(body) != refreshEncoding.EncodedLen(len(t.session)+secretSize+markSize) {
		return t, errMalformedToken
	}
	raw, err := refreshEncoding.DecodeString(body)
	if err != nil {
		return t, errMalformedToken
	}
	n := copy(t.session[:], raw)
	n += copy(t.secret[:], raw[n:])
	copy(t.mark[:], raw[n:])
	return t, nil
}

func (t refreshToken) String() string {
	raw := make([]byte, 0, len(t.session)+secretSize+markSize)
	raw = append(raw, t.session[:]...)
	raw = append(raw, t.secret[:]...)
	raw = append(raw, t.mark[:]...)
	return refreshPrefix + refreshEncoding.EncodeToString(raw)
}

// hash is what the database keeps of the secret.
func (t refreshToken) hash() []byte {
	sum := sha256.Sum256(t.secret[:])
	return sum[:]
}

// marked returns the token with the mark that markKey gives it.
func (t refreshToken) marked(markKey []byte) refreshToken {
	m := hmac.New(sha256.New, markKey)
	m.Write(t.secret[:])
	copy(t.mark[:], m.Sum(nil))
	return t
}

// genuine reports whether the token was once made for the session of markKey.
func (t refreshToken) genuine(markKey []byte) bool {
	want := t.marked(markKey)
	return subtle.ConstantTimeCompare(want.mark[:], t.mark[:]) == 1
}

// next is the token that follows t under nonce, without its mark.
func (t refreshToken) next(nonce [secretSize]byte) refreshToken {
	m := hmac.New(sha256.New, t.secret[:])
	m.Write(nonce[:])
	next := refreshToken{session: t.session}
	copy(next.secret[:], m.Sum(nil))
	return next
}

// newFamily makes the first token of a session and the session's mark key.
func newFamily(session uuid.UUID) (first refreshToken, markKey []byte) {
	first.session = session
	_, _ = rand.Read(first.secret[:]) // never fails
	markKey = make([]byte, markKeySize)
	_, _ = rand.Read(markKey)
	return first.marked(markKey), markKey
}

func newNonce() (n [secretSize]byte) {
	_, _ = rand.Read(n[:]) // never fails
	return n
}

// The history of a session: what was superseded, the newest first, each entry
// of the same width. It is text because SQLite concatenates text only, and it
// is put together inside the one UPDATE that rotates: entries out of their
// grace are dropped there.
const (
	historyEntry = 2*sha256.Size + 2*secretSize + 12 // hex of hash, nonce, milliseconds

	// historyMax bounds a family's history. A client would have to refresh
	// this often within one grace for an older token to be taken for reuse.
	historyMax = 64
)

// superseded writes one entry of a history.
func superseded(hash []byte, nonce [secretSize]byte, at time.Time) string {
	return hex.EncodeToString(hash) + hex.EncodeToString(nonce[:]) + fmt.Sprintf("%012x", at.UnixMilli())
}

// session is a stored family, as the slow path reads it.
type session struct {
	MarkKey       []byte  `db:"mark_key"`
	CurrentHash   []byte  `db:"current_hash"`
	History       string  `db:"history"`
	RotatedAt     int64   `db:"rotated_at"`
	IdleExpiresAt int64   `db:"idle_expires_at"`
	ExpiresAt     int64   `db:"expires_at"`
	EndedAt       *int64  `db:"ended_at"`
	Disabled      bool    `db:"disabled"`
	UserID        string  `db:"user_id"`
	ClientID      string  `db:"client_id"`
	Audience      string  `db:"audience"`
	Roles         string  `db:"roles"`
	EmailKey      string  `db:"email_key"`
	CreatedAt     int64   `db:"created_at"`
	AMR           string  `db:"amr"`
	EndedReason   *string `db:"ended_reason"`
}

// judge decides about a token that is not the session's current one:
//
//  1. not of this family → ErrInvalidGrant
//  2. the session has ended or expired, or its user is disabled → ErrInvalidGrant
//  3. superseded within its grace → the current token
//  4. superseded before that → ErrReused: the caller ends the family
func (s *session) judge(now time.Time, shown refreshToken, grace time.Duration) (current refreshToken, err error) {
	if !shown.genuine(s.MarkKey) {
		return current, ErrInvalidGrant
	}
	if s.EndedAt != nil || s.Disabled || now.UnixMilli() >= s.ExpiresAt || now.UnixMilli() >= s.IdleExpiresAt {
		return current, ErrInvalidGrant
	}
	current = shown
	if subtle.ConstantTimeCompare(shown.hash(), s.CurrentHash) == 1 {
		return current, nil
	}
	nonces, at, ok := s.since(shown.hash())
	if !ok || now.Sub(at) > grace {
		return refreshToken{}, ErrReused
	}
	for _, nonce := range nonces {
		current = current.next(nonce)
	}
	if subtle.ConstantTimeCompare(current.hash(), s.CurrentHash) != 1 {
		return refreshToken{}, ErrInvalidGrant // the history was tampered with
	}
	return current.marked(s.MarkKey), nil
}

// since finds a superseded hash in the history: when it was superseded, and
// the nonces that lead from it to the current token, the oldest first.
func (s *session) since(hash []byte) (nonces [][secretSize]byte, at time.Time, ok bool) {
	want := hex.EncodeToString(hash)
	for rest := s.History; len(rest) >= historyEntry; rest = rest[historyEntry:] {
		entry := rest[:historyEntry]
		var nonce [secretSize]byte
		if _, err := hex.Decode(nonce[:], []byte(entry[len(want):len(want)+2*secretSize])); err != nil {
			return nil, at, false
		}
		nonces = append([][secretSize]byte{nonce}, nonces...)
		if entry[:len(want)] == want {
			var ms int64
			if _, err := fmt.Sscanf(entry[historyEntry-12:], "%x", &ms); err != nil {
				return nil, at, false
			}
			return nonces, time.UnixMilli(ms), true
		}
	}
	return nil, at, false
}
