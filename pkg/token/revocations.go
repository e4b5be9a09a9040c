package token

// TypeRevocations is the header's typ of a [Revocations].
const TypeRevocations = "revocations+jwt"

// Revocations is the payload of the JWT by which an issuer says what has ended
// while access tokens of it may live. Without After it is the whole list; with
// it, it is what came after that place, for whoever holds all up to there.
type Revocations struct {
	Issuer   string `json:"iss"`
	IssuedAt int64  `json:"iat"`
	Expiry   int64  `json:"exp"` // of this statement: after it, it says nothing about the present

	// Sequence counts entries, without gaps, over the life of the issuer: it
	// is the place of the last entry that this list covers.
	Sequence int64  `json:"seq"`
	After    *int64 `json:"after,omitempty"`

	// TokenLife is the longest that an access token lives, in seconds.
	TokenLife int64 `json:"token_life"`

	Entries []Revocation `json:"revocations"`
}

// A Revocation refuses tokens: those whose claim has the value given. Exactly
// one of the first four is there. A later one about the same value takes the
// place of an earlier.
type Revocation struct {
	Session  string `json:"sid,omitempty"`       // a session that has ended
	Subject  string `json:"sub,omitempty"`       // a user who is disabled or deleted
	ClientID string `json:"client_id,omitempty"` // a client that is disabled
	ID       string `json:"jti,omitempty"`       // one token

	// Before, if there, refuses only tokens with an earlier iat: the user or
	// client is enabled again.
	Before int64 `json:"before,omitempty"`

	// Expiry is when the last of these tokens expires, by the issuer's clock:
	// from then on, and the verifier's leeway, the entry can be forgotten.
	Expiry int64 `json:"exp"`
}
