package authserver

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
)

// argon2id as OWASP recommends it: 19 MiB, two passes, one lane. One hash
// takes some 30 ms of one core, on purpose.
var hashParams = argonParams{memory: 19 * 1024, time: 2, threads: 1}

const (
	saltSize = 16
	hashSize = 32

	// queuePerSlot is how many hashes may wait for each that runs. At 30 ms
	// each the last in the queue waits a second, which a person still takes.
	queuePerSlot = 32

	// idleAfter is how long after the last hash its memory goes back to the
	// system. The collector by itself would keep it for minutes.
	idleAfter = 3 * time.Second
)

var (
	// ErrBusy says that more passwords are waiting to be hashed than can be
	// hashed in a reasonable time.
	ErrBusy = errors.New("authserver: too many logins at once")

	errHashFormat = errors.New("authserver: the stored password hash can't be read")
)

type argonParams struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

// hasher hashes passwords, at most one for each core at a time: more would
// only take memory and time from each other, and from everything else.
type hasher struct {
	running chan struct{} // held while hashing
	queued  chan struct{} // held while waiting or hashing
	idle    *time.Timer   // set again by each hash
}

func newHasher() *hasher {
	slots := runtime.GOMAXPROCS(0)
	h := &hasher{running: make(chan struct{}, slots), queued: make(chan struct{}, slots*(1+queuePerSlot))}
	h.idle = time.AfterFunc(idleAfter, func() {
		if len(h.queued) == 0 {
			debug.FreeOSMemory()
		}
	})
	h.idle.Stop()
	return h
}

// do runs f when its turn comes, or returns ErrBusy, or ctx's error.
func (h *hasher) do(ctx context.Context, f func()) error {
	select {
	case h.queued <- struct{}{}:
		defer func() { <-h.queued }()
	default:
		return ErrBusy
	}
	select {
	case h.running <- struct{}{}:
		defer func() { <-h.running }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a password hash: %w", ctx.Err())
	}
	f()
	h.idle.Reset(idleAfter)
	return nil
}

// hash makes the PHC string of a password.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	var sum []byte
	p := hashParams
	err := h.do(ctx, func() {
		sum = argon2.IDKey([]byte(normalisePassword(password)), salt, p.time, p.memory, p.threads, hashSize)
	})
	if err != nil {
		return "", err
	}
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.threads,
		b64.EncodeToString(salt), b64.EncodeToString(sum)), nil
}

// verify reports whether a password is the one of a PHC string. An empty
// string costs the same as any other and never fits: it stands for a user
// who doesn't exist.
func (h *hasher) verify(ctx context.Context, phc, password string) (bool, error) {
	p, salt, want := hashParams, make([]byte, saltSize), make([]byte, hashSize)
	if phc != "" {
		var err error
		if p, salt, want, err = parsePHC(phc); err != nil {
			return false, err
		}
	}
	var got []byte
	err := h.do(ctx, func() {
		got = argon2.IDKey([]byte(normalisePassword(password)), salt, p.time, p.memory, p.threads, uint32(len(want))) //nolint:gosec // parsePHC bounds it
	})
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1 && phc != "", nil
}

// parsePHC reads $argon2id$v=19$m=…,t=…,p=…$salt$hash, within bounds that
// keep a damaged row from taking the machine down.
func parsePHC(phc string) (p argonParams, salt, sum []byte, err error) {
	fields := strings.Split(phc, "$")
	if len(fields) != 6 || fields[0] != "" || fields[1] != "argon2id" || fields[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, nil, nil, errHashFormat
	}
	if _, err := fmt.Sscanf(fields[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.threads); err != nil {
		return p, nil, nil, errHashFormat
	}
	if p.memory < 8 || p.memory > 1<<20 || p.time < 1 || p.time > 16 || p.threads < 1 {
		return p, nil, nil, errHashFormat
	}
	salt, errSalt := base64.RawStdEncoding.DecodeString(fields[4])
	sum, errSum := base64.RawStdEncoding.DecodeString(fields[5])
	if errSalt != nil || errSum != nil || len(salt) < 8 || len(sum) < 16 || len(sum) > 128 {
		return p, nil, nil, errHashFormat
	}
	return p, salt, sum, nil
}
