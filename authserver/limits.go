package authserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Limits say how often something may fail or be asked for. A limit of the zero
// value is off.
//
// Two kinds: one that caps refuses until its window, which began with the
// first, is over. One that delays refuses for a second after Max failures,
// and for twice as long after each further one, up to a quarter of an hour;
// it forgets when none has come for a whole window.
type Limits struct {
	LoginAccount    Limit // delays: wrong passwords for an address, from devices that its owner hasn't used
	LoginDevice     Limit // delays: wrong passwords for an address, from one network or known device
	LoginNetwork    Limit // caps: wrong passwords from one network
	RegisterNetwork Limit // caps: registrations from one network
	ResetAddress    Limit // caps: resets asked for one address
	ResetNetwork    Limit // caps: resets and other mail asked for from one network
	TokenNetwork    Limit // caps: refresh tokens, links and client credentials that were no good, from one network
}

// Limit is how many in what time.
type Limit struct {
	Max    int
	Window time.Duration
}

// DefaultLimits are for a public server: no person meets them, and a guesser
// gets fewer than a hundred tries an hour at an account (NIST 800-63B allows a
// hundred in all before it must be harder).
func DefaultLimits() Limits {
	return Limits{
		LoginAccount:    Limit{20, time.Hour},
		LoginDevice:     Limit{10, time.Hour},
		LoginNetwork:    Limit{300, 10 * time.Minute},
		RegisterNetwork: Limit{1000, time.Hour},
		ResetAddress:    Limit{10, time.Hour},
		ResetNetwork:    Limit{300, time.Hour},
		TokenNetwork:    Limit{1000, 10 * time.Minute},
	}
}

// byName are the limits by the names that files and header fields use.
func (l *Limits) byName() map[string]*Limit {
	return map[string]*Limit{
		"login_account": &l.LoginAccount, "login_device": &l.LoginDevice, "login_network": &l.LoginNetwork,
		"register_network": &l.RegisterNetwork, "reset_address": &l.ResetAddress, "reset_network": &l.ResetNetwork,
		"token_network": &l.TokenNetwork,
	}
}

// ErrLimits is wrapped by what [ParseLimits] returns.
var ErrLimits = errors.New("authserver: not a table of limits")

// ParseLimits reads limits as a JSON object: a member for each that isn't to
// be the default, {"max": 20, "window": "1h"} or null for off.
func ParseLimits(text []byte) (Limits, error) {
	limits := DefaultLimits()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil || members == nil {
		return limits, fmt.Errorf("%w: it must be a JSON object", ErrLimits)
	}
	names := limits.byName()
	for name, raw := range members {
		limit, ok := names[name]
		if !ok {
			return limits, fmt.Errorf("%w: there is no limit %q; there are %s", ErrLimits, printable(name, 40), strings.Join(slices.Sorted(maps.Keys(names)), ", "))
		}
		if string(raw) == "null" {
			*limit = Limit{}
			continue
		}
		var value struct {
			Max    int
			Window string
		}
		dec := json.NewDecoder(strings.NewReader(string(raw)))
		dec.DisallowUnknownFields()
		err := dec.Decode(&value)
		window, errWindow := time.ParseDuration(value.Window)
		if err != nil || errWindow != nil || value.Max < 1 || value.Max > 1_000_000 || window < time.Second || window > 30*24*time.Hour {
			return limits, fmt.Errorf(`%w: %s must be null or {"max": 20, "window": "1h"}, with a max from 1 to 1000000 and a window from 1s to 720h`, ErrLimits, name)
		}
		*limit = Limit{value.Max, window}
	}
	return limits, nil
}
