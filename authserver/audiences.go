package authserver

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/urbandata/urbandata/pkg/token"
)

// Audience says which tokens an audience gets.
type Audience struct {
	Alg    jose.SignatureAlgorithm
	Type   string        // the header's typ: [token.TypeAccess] or [token.TypeJWT]
	Life   time.Duration // of its tokens; 0 for the server's, and never longer than that
	Closed bool          // users may not ask for it, only clients that have it in their list
}

// InmueblesAudience is the audience of our own resource server, and of a token
// that is asked for without one.
const InmueblesAudience = "inmuebles"

// otherAudience is what an audience gets that isn't registered: half of the
// stock verifiers don't do EdDSA (docs/verify.md).
var otherAudience = Audience{Alg: jose.RS256, Type: token.TypeAccess}

// ErrAudienceClosed says that a user asked for a token that only clients get.
var ErrAudienceClosed = errors.New("authserver: the audience is not for users")

// audienceReload is how often a server looks for audiences that were
// registered while it ran.
const audienceReload = 5 * time.Second

// audiences knows what tokens each audience gets: what the settings say, else
// what is registered in the database, else the default.
type audiences struct {
	fixed    map[string]Audience
	override jose.SignatureAlgorithm // for every audience, unless empty
	store    *Store
	stored   atomic.Pointer[map[string]Audience] // nil until first asked for
}

// find returns what tokens for a name are like. It asks the database only if
// that was never done.
func (a *audiences) find(ctx context.Context, name string) (Audience, error) {
	found, ok := a.fixed[name]
	if !ok {
		stored := a.stored.Load()
		if stored == nil {
			if err := a.reload(ctx); err != nil {
				return Audience{}, err
			}
			stored = a.stored.Load()
		}
		if found, ok = (*stored)[name]; !ok {
			found = otherAudience
		}
	}
	if a.override != "" {
		found.Alg = a.override
	}
	return found, nil
}

// forUser is find for a user, or [ErrAudienceClosed].
func (a *audiences) forUser(ctx context.Context, name string) error {
	found, err := a.find(ctx, name)
	if err == nil && found.Closed {
		return ErrAudienceClosed
	}
	return err
}

// reload reads the registered audiences. After an error those known stay.
func (a *audiences) reload(ctx context.Context) error {
	list, err := a.store.listAudiences(ctx)
	if err != nil {
		return err
	}
	stored := make(map[string]Audience, len(list))
	for _, r := range list {
		stored[r.Name] = Audience{Alg: r.Alg, Type: r.Type, Life: r.TokenLife, Closed: !r.ForUsers}
	}
	a.stored.Store(&stored)
	return nil
}
