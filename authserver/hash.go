package authserver

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"
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

// hasher hashes passwords, at most one for each core at a time, and no more
// than fit into a quarter of the memory: more would only take both from each
// other, and from everything else. A hash from elsewhere that takes more
// memory than ours counts as several.
type hasher struct {
	slots   int64
	running *semaphore.Weighted // held while hashing
	queued  chan struct{}       // held while waiting or hashing
	idle    *time.Timer         // set again by each hash
}

func newHasher() *hasher {
	slots := min(int64(runtime.GOMAXPROCS(0)), max(1, memoryLimit()/4/(int64(hashParams.memory)<<10)))
	h := &hasher{slots: slots, running: semaphore.NewWeighted(slots), queued: make(chan struct{}, slots*(1+queuePerSlot))}
	h.idle = time.AfterFunc(idleAfter, func() {
		if len(h.queued) == 0 {
			debug.FreeOSMemory()
		}
	})
	h.idle.Stop()
	return h
}

// memoryLimit is what this process may use, in bytes: the least of what the
// runtime was told, the container allows and the machine has.
func memoryLimit() int64 {
	limit := debug.SetMemoryLimit(-1) // only reads it
	if text, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil { // or "max"
			limit = min(limit, n)
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int64
		if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err == nil {
			limit = min(limit, kib<<10)
		}
	}
	return limit
}

// do runs f, which takes some memory, when its turn comes, or returns ErrBusy,
// or ctx's error.
func (h *hasher) do(ctx context.Context, memory uint32, f func()) error {
	select {
	case h.queued <- struct{}{}:
		defer func() { <-h.queued }()
	default:
		return ErrBusy
	}
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
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	var sum []byte
	p := hashParams
	err := h.do(ctx, p.memory, func() {
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
func (h *hasher) verify(ctx context.Context, stored, password string) (ok, outdated bool, err error) {
	s, err := parseHash(stored)
	if err != nil {
		return false, false, err
	}
	if err := h.do(ctx, s.memory, func() { ok = s.matches(password) }); err != nil {
		return false, false, err
	}
	return ok, ok && s.outdated, nil
}
