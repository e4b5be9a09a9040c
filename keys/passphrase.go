package keys

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"sync"

	"golang.org/x/crypto/argon2"
)

// The cost of a sealing key that is derived from a passphrase: argon2id with
// the second recommended option of RFC 9106 §4. It is paid once for each salt
// in the ring when a process starts.
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
	argonSalt    = 16 // bytes
)

// passphraseID is the id of a derived sealing key. It is stored beside what
// the key has sealed, so the parameters and the salt are always at hand:
//
//	argon2id.m65536.t3.p4.SALT.CHECK
//
// SALT is base64url, CHECK the id of the derived [SealingKey], which tells a
// wrong passphrase from an altered box and gives nothing else away.
var passphraseID = sync.OnceValue(func() *regexp.Regexp { // most processes never meet one
	return regexp.MustCompile(`^argon2id\.m([0-9]{1,7})\.t([0-9]{1,2})\.p([0-9]{1,2})\.([A-Za-z0-9_-]{22,86})\.([0-9a-f]{16})$`)
})

// passphraseSealer derives its sealing keys from passphrases.
type passphraseSealer struct {
	passphrases [][]byte // the newest first

	mu   sync.Mutex        // guards all below; held while a key is derived, once for each id
	id   string            // what seals; "" until it is asked for or found
	keys map[string]Sealer // by id
}

// NewPassphraseSealer returns a [Sealer] whose sealing keys are derived with
// argon2id: the newest passphrase seals, and all open. A passphrase should
// have the strength of six random words; the error wraps [ErrSealingKey] when
// one has fewer than [MinPassphrase] bytes.
//
// It seals with the salt of the first key that it has opened, and makes a new
// one only when it has opened none: replicas that load the same ring use the
// same salt.
func NewPassphraseSealer(newest string, older ...string) (Sealer, error) {
	s := &passphraseSealer{keys: make(map[string]Sealer)}
	for _, p := range append([]string{newest}, older...) {
		if len(p) < MinPassphrase {
			return nil, fmt.Errorf("%w: a passphrase must have %d characters or more", ErrSealingKey, MinPassphrase)
		}
		s.passphrases = append(s.passphrases, []byte(p))
	}
	return s, nil
}

// ID implements [Sealer].
func (s *passphraseSealer) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id == "" {
		salt := make([]byte, argonSalt)
		_, _ = rand.Read(salt) // never fails, by its documentation
		key := derive(s.passphrases[0], salt, argonMemory, argonTime, argonThreads)
		s.id = fmt.Sprintf("argon2id.m%d.t%d.p%d.%s.%s", argonMemory, argonTime, argonThreads,
			base64.RawURLEncoding.EncodeToString(salt), key.ID())
		s.keys[s.id], _ = NewSealer(key) // refuses zeros only
	}
	return s.id
}

// Seal implements [Sealer].
func (s *passphraseSealer) Seal(ctx context.Context, plaintext, identity []byte) ([]byte, error) {
	id := s.ID()
	s.mu.Lock()
	sealer := s.keys[id]
	s.mu.Unlock()
	// The identity that it is bound to has the derived id in it, by seal.
	return sealer.Seal(ctx, plaintext, identity)
}

// Open implements [Sealer].
func (s *passphraseSealer) Open(ctx context.Context, id string, box, identity []byte) ([]byte, error) {
	sealer, err := s.find(id)
	if err != nil {
		return nil, err
	}
	return sealer.Open(ctx, sealer.ID(), box, identity)
}

// find returns the sealer of a derived key.
func (s *passphraseSealer) find(id string) (Sealer, error) {
	m := passphraseID().FindStringSubmatch(id)
	if m == nil {
		return nil, fmt.Errorf("%w: sealing key %s is wanted, and a passphrase was given", ErrSealed, id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sealer := s.keys[id]; sealer != nil {
		return sealer, nil
	}
	memory, memErr := strconv.ParseUint(m[1], 10, 32)
	passes, timeErr := strconv.ParseUint(m[2], 10, 32)
	threads, threadErr := strconv.ParseUint(m[3], 10, 8)
	salt, saltErr := base64.RawURLEncoding.DecodeString(m[4])
	// The bounds keep a row that was tampered with from taking the machine
	// down.
	if errors.Join(memErr, timeErr, threadErr, saltErr) != nil ||
		memory < 8<<10 || memory > 1<<20 || passes < 1 || passes > 16 || threads < 1 || threads > 16 {
		return nil, fmt.Errorf("%w: the parameters in %s are not what this package writes", ErrSealed, id)
	}
	for i, p := range s.passphrases {
		key := derive(p, salt, uint32(memory), uint32(passes), uint8(threads))
		if check, err := hex.DecodeString(m[5]); err != nil || subtle.ConstantTimeCompare(check, key.derive("id", 8)) != 1 {
			continue
		}
		sealer, err := NewSealer(key)
		if err != nil {
			return nil, err
		}
		s.keys[id] = sealer
		if i == 0 && s.id == "" {
			s.id = id
		}
		return sealer, nil
	}
	return nil, fmt.Errorf("%w: the passphrase is not the one that it was sealed with", ErrSealed)
}

func derive(passphrase, salt []byte, memory, passes uint32, threads uint8) SealingKey {
	raw := argon2.IDKey(passphrase, salt, passes, memory, threads, sealingKeySize)
	defer clear(raw)
	return SealingKey{secret: [sealingKeySize]byte(raw)}
}

// JoinSealers returns a [Sealer] that seals with the first and opens with any
// of them: for moving from one kind of sealer to another, such as a KMS, with
// [Rewrap]. Open asks them in order until one doesn't answer [ErrSealed].
func JoinSealers(first Sealer, others ...Sealer) Sealer {
	if len(others) == 0 {
		return first
	}
	return &joined{first, others}
}

type joined struct {
	Sealer
	others []Sealer
}

func (j *joined) Open(ctx context.Context, id string, box, identity []byte) ([]byte, error) {
	plaintext, err := j.Sealer.Open(ctx, id, box, identity)
	for _, other := range j.others {
		if !errors.Is(err, ErrSealed) {
			break
		}
		plaintext, err = other.Open(ctx, id, box, identity)
	}
	return plaintext, err
}
