package authserver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"

	"github.com/urbandata/urbandata/pkg/web"
)

// argon2id as OWASP recommends it: 19 MiB, two passes, one lane. One hash
// takes some 20 ms of one core, on purpose.
var hashParams = argonParams{memory: 19 * 1024, time: 2, threads: 1}

const (
	saltSize = 16
	hashSize = 32

	// queuePerSlot is how many logins may wait for each hash that runs. At 20
	// ms each the last in the queue waits a second, which a person still takes.
	queuePerSlot = 50

	// turnsPerSlot is how many logins may be under way for each hash that
	// runs: one is hashed while the other asks the database.
	turnsPerSlot = 2

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

// hasher hashes passwords, so that a flood of logins takes neither the
// processors nor the memory nor the database from everything else:
//
//	         full: ErrBusy
//	            │
//	login ─▶ queued ─▶ its turn ─▶ SQL ─▶ running ─▶ SQL ─▶ end
//	          50 ×       2 ×               slots
//
// What is refused has cost no statement, and who leaves the queue no hash. At
// most GOMAXPROCS-1 hashes run at once, so that a short request never waits for
// one to end (the scheduler takes a processor away from it only every 10 ms),
// and no more than fit into a quarter of the memory. A hash from elsewhere that
// takes more memory than ours counts as several.
type hasher struct {
	slots   int64
	queued  chan struct{}       // held from the first to the end
	turns   *semaphore.Weighted // held by those who have their turn
	running *semaphore.Weighted // held while hashing
	idle    *time.Timer         // set again by each hash
}

func newHasher() *hasher {
	slots := max(1, min(int64(runtime.GOMAXPROCS(0))-1, web.MemoryLimit()/4/(int64(hashParams.memory)<<10)))
	h := &hasher{
		slots: slots, queued: make(chan struct{}, slots*(turnsPerSlot+queuePerSlot)),
		turns: semaphore.NewWeighted(slots * turnsPerSlot), running: semaphore.NewWeighted(slots),
	}
	h.idle = time.AfterFunc(idleAfter, func() {
		if len(h.queued) == 0 {
			debug.FreeOSMemory()
		}
	})
	h.idle.Stop()
	return h
}

// turn is the turn of somebody whose password is to be hashed.
type turn struct{ h *hasher }

// enter waits for a turn, which has to end, or returns [ErrBusy], or ctx's
// error. Take it before the first statement that leads to a hash, where anybody
// can ask for it.
func (h *hasher) enter(ctx context.Context) (*turn, error) {
	select {
	case h.queued <- struct{}{}:
	default:
		return nil, ErrBusy
	}
	if err := h.turns.Acquire(ctx, 1); err != nil {
		<-h.queued
		return nil, fmt.Errorf("wait to log in: %w", err)
	}
	return &turn{h}, nil
}

func (t *turn) end() {
	t.h.turns.Release(1)
	<-t.h.queued
}

// do runs f, which takes some memory, or returns ctx's error.
func (t *turn) do(ctx context.Context, memory uint32, f func()) error {
	h := t.h
	weight := min(h.slots, max(1, int64((memory+hashParams.memory-1)/hashParams.memory)))
	if err := h.running.Acquire(ctx, weight); err != nil {
		return fmt.Errorf("wait for a password hash: %w", err)
	}
	defer h.running.Release(weight)
	f()
	h.idle.Reset(idleAfter)
	return nil
}

// hash makes the PHC string of a password.
func (t *turn) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	var sum []byte
	p := hashParams
	err := t.do(ctx, p.memory, func() {
		sum = argon2.IDKey([]byte(normalisePassword(password)), salt, p.time, p.memory, p.threads, hashSize)
	})
	if err != nil {
		return "", err
	}
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.threads,
		b64.EncodeToString(salt), b64.EncodeToString(sum)), nil
}

// verify reports whether a password is the stored one, and whether that is to
// be stored anew.
func (t *turn) verify(ctx context.Context, stored, password string) (ok, outdated bool, err error) {
	s, err := parseHash(stored)
	if err != nil {
		return false, false, err
	}
	if err := t.do(ctx, s.memory, func() { ok = s.matches(password) }); err != nil {
		return false, false, err
	}
	return ok, ok && s.outdated, nil
}

// hash is [turn.hash] in a turn of its own.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	t, err := h.enter(ctx)
	if err != nil {
		return "", err
	}
	defer t.end()
	return t.hash(ctx, password)
}

// verify is [turn.verify] in a turn of its own.
func (h *hasher) verify(ctx context.Context, stored, password string) (ok, outdated bool, err error) {
	t, err := h.enter(ctx)
	if err != nil {
		return false, false, err
	}
	defer t.end()
	return t.verify(ctx, stored, password)
}
