package authserver

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/scrypt"
)

// The formats in which a stored password is read. Ours is the first; the
// others are Django's (docs.djangoproject.com, "How Django stores passwords"),
// and are replaced by ours at the next login.
//
//	$argon2id$v=19$m=…,t=…,p=…$salt$hash
//	argon2$argon2id$v=19$…                  also argon2i
//	pbkdf2_sha256$iterations$salt$hash
//	bcrypt_sha256$$2b$cost$…
//	scrypt$N$salt$r$p$hash
//	!…                                      none that fits, by Django
//
// Every parameter is bounded, so that a damaged row can't take the machine
// down.

// storedHash is a stored password, read.
type storedHash struct {
	matches  func(password string) bool
	memory   uint32 // KiB that matches takes
	outdated bool   // whether it is to be replaced by one of ours
	unusable bool   // whether nothing fits
}

// parseHash reads a stored password, or returns errHashFormat. An empty string
// stands for a user who doesn't exist: it costs what a new hash does, and
// never fits.
func parseHash(stored string) (storedHash, error) {
	if stored == "" || stored[0] == '!' {
		p, salt := hashParams, make([]byte, saltSize)
		return storedHash{memory: p.memory, unusable: true, matches: func(password string) bool {
			argon2.IDKey([]byte(normalisePassword(password)), salt, p.time, p.memory, p.threads, hashSize)
			return false
		}}, nil
	}
	format, rest, _ := strings.Cut(stored, "$")
	switch format {
	case "":
		p, salt, want, err := parsePHC(stored)
		if err != nil {
			return storedHash{}, err
		}
		return storedHash{memory: p.memory, outdated: p != hashParams, matches: func(password string) bool {
			return equal(argon2.IDKey([]byte(normalisePassword(password)), salt, p.time, p.memory, p.threads, uint32(len(want))), want) //nolint:gosec // parsePHC bounds it
		}}, nil
	case "argon2":
		return djangoArgon2(rest)
	case "pbkdf2_sha256":
		return djangoPBKDF2(rest)
	case "bcrypt_sha256":
		return djangoBcrypt(rest)
	case "scrypt":
		return djangoScrypt(rest)
	}
	return storedHash{}, errHashFormat
}

func equal(got, want []byte) bool { return subtle.ConstantTimeCompare(got, want) == 1 }

func djangoArgon2(text string) (storedHash, error) {
	derive, phc := argon2.IDKey, "$"+text
	if strings.HasPrefix(text, "argon2i$") {
		derive, phc = argon2.Key, "$argon2id$"+strings.TrimPrefix(text, "argon2i$")
	}
	p, salt, want, err := parsePHC(phc)
	if err != nil {
		return storedHash{}, err
	}
	return storedHash{memory: p.memory, outdated: true, matches: func(password string) bool {
		return equal(derive([]byte(password), salt, p.time, p.memory, p.threads, uint32(len(want))), want) //nolint:gosec // parsePHC bounds it
	}}, nil
}

func djangoPBKDF2(text string) (storedHash, error) {
	fields := strings.Split(text, "$")
	if len(fields) != 3 {
		return storedHash{}, errHashFormat
	}
	iterations, err := strconv.Atoi(fields[0])
	want, errSum := base64.StdEncoding.DecodeString(fields[2])
	if err != nil || errSum != nil || iterations < 1 || iterations > 10_000_000 || fields[1] == "" || len(want) != sha256.Size {
		return storedHash{}, errHashFormat
	}
	return storedHash{outdated: true, matches: func(password string) bool {
		got, err := pbkdf2.Key(sha256.New, password, []byte(fields[1]), iterations, len(want))
		return err == nil && equal(got, want)
	}}, nil
}

func djangoBcrypt(text string) (storedHash, error) {
	cost, err := bcrypt.Cost([]byte(text))
	if err != nil || cost > 15 || len(text) != 60 {
		return storedHash{}, errHashFormat
	}
	return storedHash{outdated: true, matches: func(password string) bool {
		sum := sha256.Sum256([]byte(password)) // what bcrypt cuts off at 72 bytes is thereby in
		return bcrypt.CompareHashAndPassword([]byte(text), []byte(hex.EncodeToString(sum[:]))) == nil
	}}, nil
}

func djangoScrypt(text string) (storedHash, error) {
	fields := strings.Split(text, "$")
	if len(fields) != 5 {
		return storedHash{}, errHashFormat
	}
	n, errN := strconv.Atoi(fields[0])
	r, errR := strconv.Atoi(fields[2])
	p, errP := strconv.Atoi(fields[3])
	want, errSum := base64.StdEncoding.DecodeString(fields[4])
	if errN != nil || errR != nil || errP != nil || errSum != nil || fields[1] == "" || len(want) != 64 ||
		n < 2 || n&(n-1) != 0 || n > 1<<20 || r < 1 || r > 64 || p < 1 || p > 64 || n*r > maxHashMemory*8 {
		return storedHash{}, errHashFormat
	}
	return storedHash{memory: uint32(n * r / 8), outdated: true, matches: func(password string) bool { //nolint:gosec // bounded above
		got, err := scrypt.Key([]byte(password), []byte(fields[1]), n, r, p, len(want))
		return err == nil && equal(got, want)
	}}, nil
}

// maxHashMemory is the most, in KiB, that one stored hash may take.
const maxHashMemory = 256 << 10

// parsePHC reads $argon2id$v=19$m=…,t=…,p=…$salt$hash, within bounds.
func parsePHC(phc string) (p argonParams, salt, sum []byte, err error) {
	fields := strings.Split(phc, "$")
	if len(fields) != 6 || fields[0] != "" || fields[1] != "argon2id" || fields[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, nil, nil, errHashFormat
	}
	if _, err := fmt.Sscanf(fields[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.threads); err != nil {
		return p, nil, nil, errHashFormat
	}
	if p.memory < 8 || p.memory > maxHashMemory || p.time < 1 || p.time > 16 || p.threads < 1 {
		return p, nil, nil, errHashFormat
	}
	salt, errSalt := base64.RawStdEncoding.DecodeString(fields[4])
	sum, errSum := base64.RawStdEncoding.DecodeString(fields[5])
	if errSalt != nil || errSum != nil || len(salt) < 8 || len(sum) < 16 || len(sum) > 128 {
		return p, nil, nil, errHashFormat
	}
	return p, salt, sum, nil
}
