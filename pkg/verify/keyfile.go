package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// A keyFile is the last good set on disk (CacheOptions.File). It is looked at
// only when the first fetch has failed, so a restart never brings back a key
// that the issuer has taken out and can say so. It extends no life: the age of
// the set counts from the fetch that brought it, in whichever process.
//
// Whoever can write the file can make any token, just as with the issuer's
// answer; nobody else is kept out of reading it but by 0600, since the keys
// are public.
type keyFile struct {
	path   string
	issuer string
	url    string
	limit  int64 // of the document
}

// record is what the file holds.
type record struct {
	Issuer  string    `json:"issuer"`
	URL     string    `json:"url"`
	Fetched time.Time `json:"fetched"`      // when the issuer last said that this is the set
	Life    int64     `json:"life_seconds"` // for how long it was good then
	Sum     string    `json:"sha256"`       // of the document
	Doc     []byte    `json:"jwks"`         // as it came
}

// save replaces the file, or leaves it as it was.
func (f *keyFile) save(doc []byte, fetched time.Time, life time.Duration) error {
	sum := sha256.Sum256(doc)
	text, err := json.Marshal(record{
		Issuer: f.issuer, URL: f.url, Fetched: fetched.UTC(), Life: int64(life / time.Second),
		Sum: hex.EncodeToString(sum[:]), Doc: doc,
	})
	if err != nil {
		return err
	}
	// In the same folder, or the last step would not be one. Its mode is 0600.
	temporary, err := os.CreateTemp(filepath.Dir(f.path), "."+filepath.Base(f.path)+".*")
	if err != nil {
		return err
	}
	_, err = temporary.Write(text)
	if err == nil {
		err = temporary.Sync()
	}
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), f.path)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
	}
	return err
}

// load returns the set, when it was fetched, and for how long it was good.
// The error is of [os.ErrNotExist] if there is no file.
func (f *keyFile) load(now time.Time) (set *KeySet, fetched time.Time, life time.Duration, err error) {
	text, err := f.read()
	if err != nil {
		return nil, time.Time{}, 0, err
	}
	bad := func(why string) (*KeySet, time.Time, time.Duration, error) {
		return nil, time.Time{}, 0, fmt.Errorf("%s: %s", f.path, why)
	}
	var r record
	if json.Unmarshal(text, &r) != nil {
		return bad("is not what this package wrote")
	}
	sum := sha256.Sum256(r.Doc)
	switch {
	case r.Issuer != f.issuer || r.URL != f.url:
		return bad("is of another issuer or URL")
	case hex.EncodeToString(sum[:]) != r.Sum:
		return bad("is damaged")
	case r.Fetched.After(now.Add(maxLeeway)):
		return bad("is from the future")
	case r.Life < 0 || r.Life > maxDelta:
		return bad("is not what this package wrote")
	}
	if set, err = ParseKeySet(r.Doc); err != nil {
		return bad(err.Error())
	}
	return set, r.Fetched, time.Duration(r.Life) * time.Second, nil
}

// read returns the text of a file that only its owner could have written.
func (f *keyFile) read() ([]byte, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: is no regular file", f.path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("%s: can be written by others than its owner (mode %v)", f.path, info.Mode().Perm())
	}
	limit := 2*f.limit + 4096 // base64 and the rest
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s: is longer than %d bytes", f.path, limit)
	}
	return text, err
}
