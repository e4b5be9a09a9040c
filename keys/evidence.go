package keys

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Activation is what a planned rotation waits for, once its moment has come.
type Activation string

// The kinds of activation.
const (
	// OnSchedule waits for nothing but the time.
	OnSchedule Activation = "schedule"
	// OnEvidence waits until every verifier of Policy.Registered has said
	// that it holds the next key, and for Policy.MaxHold at most.
	OnEvidence Activation = "evidence"
)

// Evidence is what [Step] is told about the world outside. It can only hold a
// planned rotation back, for Policy.MaxHold at most; it never brings one
// forward, and holds back nothing that is urgent. Whoever forges it can
// therefore do no worse than a schedule without it.
type Evidence struct {
	// Unserved says that the keeper tried to fetch its own JWKS and
	// couldn't. When a key starts to sign, many verifiers fetch at once.
	Unserved bool

	// Sightings tell which verifier holds which keys; of use with
	// OnEvidence only.
	Sightings []Sighting
}

// Sighting is the last that a verifier has told about the key set it holds:
// pkg/verify sends a name (Urbandata-Verifier) and the ETag of its set
// (If-None-Match) with each fetch. It is unauthenticated, and holds no secret.
type Sighting struct {
	Verifier string    // 1 to 64 visible ASCII characters
	ETag     string    // of the set that it holds; "" when it holds none, or one that isn't known
	Keys     []string  // the kids in that set
	At       time.Time // UTC, in whole milliseconds
}

// Holds reports whether the verifier is known to hold a key.
func (s *Sighting) Holds(kid string) bool { return slices.Contains(s.Keys, kid) }

// Holding divides registered verifiers into those that hold a key, by their
// last sighting, and those that don't or were never seen.
func Holding(kid string, registered []string, sightings []Sighting) (holding, missing []string) {
	for _, name := range registered {
		i := slices.IndexFunc(sightings, func(s Sighting) bool { return s.Verifier == name })
		if i >= 0 && sightings[i].Holds(kid) {
			holding = append(holding, name)
		} else {
			missing = append(missing, name)
		}
	}
	return holding, missing
}

// MaxVerifierName bounds a verifier's name, in bytes.
const MaxVerifierName = 64

// ValidVerifierName reports whether a name is 1 to 64 visible ASCII characters
// without a comma, which separates names in settings.
func ValidVerifierName(name string) bool {
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' || c == ',' {
			return false
		}
	}
	return name != "" && len(name) <= MaxVerifierName
}

const (
	// MaxSightings bounds how many verifiers are remembered. Registered ones
	// always have room; of the others the first to come stay.
	MaxSightings = 256

	// sightingFresh is for how long a verifier that goes on with the same set
	// isn't written down again.
	sightingFresh = time.Hour

	// sightingLife is after how long without a word a verifier is forgotten.
	sightingLife = 30 * 24 * time.Hour

	// knownSets bounds how many of the latest sets a replica can tell the
	// keys of by their ETag.
	knownSets = 16
)

// watch collects sightings in memory between two ticks. Saw is on the path of
// every JWKS request, so it does no more than look into a map.
type watch struct {
	mu         sync.Mutex // guards all below; held for no I/O
	isSeeded   bool
	registered []string
	sets       []knownSet          // the newest last
	written    map[string]Sighting // as far as this replica knows
	pending    map[string]Sighting // to be written with the next tick
}

type knownSet struct {
	etag string
	keys []string
}

func newWatch(registered []string) *watch {
	return &watch{registered: registered, written: map[string]Sighting{}, pending: map[string]Sighting{}}
}

// publish makes a set known.
func (w *watch) publish(etag string, ring Ring) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.ContainsFunc(w.sets, func(s knownSet) bool { return s.etag == etag }) {
		return
	}
	set := knownSet{etag: etag}
	for _, k := range ring.Published() {
		set.keys = append(set.keys, k.ID)
	}
	w.sets = append(w.sets, set)
	if len(w.sets) > knownSets {
		w.sets = slices.Delete(w.sets, 0, 1)
	}
}

func (w *watch) saw(verifier, etag string, now time.Time) {
	if !ValidVerifierName(verifier) {
		return
	}
	etag = strings.TrimPrefix(etag, "W/") // a cache between may have weakened it
	w.mu.Lock()
	defer w.mu.Unlock()
	last, known := w.pending[verifier]
	if !known {
		last, known = w.written[verifier]
	}
	if known && last.ETag == etag && now.Sub(last.At) < sightingFresh {
		return
	}
	if !known && !slices.Contains(w.registered, verifier) && len(w.written)+len(w.pending) >= MaxSightings-len(w.registered) {
		return
	}
	s := Sighting{Verifier: strings.Clone(verifier), At: now.UTC().Truncate(time.Millisecond)}
	if i := slices.IndexFunc(w.sets, func(s knownSet) bool { return s.etag == etag }); i >= 0 {
		s.ETag, s.Keys = w.sets[i].etag, w.sets[i].keys
	} else if known && etag != "" {
		// A set that this replica hasn't served, or made up. What was known
		// of the verifier stays: nobody goes back to an older set.
		return
	}
	w.pending[s.Verifier] = s
}

func (w *watch) seeded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isSeeded
}

func (w *watch) seed(found []Sighting, now time.Time) {
	w.done(found, now)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isSeeded = true
}

// take returns what is to be written.
func (w *watch) take() []Sighting {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		return nil
	}
	taken := make([]Sighting, 0, len(w.pending))
	for _, s := range w.pending {
		taken = append(taken, s)
	}
	clear(w.pending)
	slices.SortFunc(taken, func(a, b Sighting) int { return strings.Compare(a.Verifier, b.Verifier) })
	return taken
}

// done remembers what was written, and forgets who wasn't heard of for long.
func (w *watch) done(taken []Sighting, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range taken {
		w.written[s.Verifier] = s
	}
	for name, s := range w.written {
		if now.Sub(s.At) > sightingLife {
			delete(w.written, name)
		}
	}
}

// undo puts back what couldn't be written, unless there is newer word.
func (w *watch) undo(taken []Sighting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range taken {
		if _, newer := w.pending[s.Verifier]; !newer {
			w.pending[s.Verifier] = s
		}
	}
}
