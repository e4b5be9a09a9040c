//go:build unix

package web

import "syscall"

// fileLimit is how many file handles this process may have, or 0 if that isn't
// known.
func fileLimit() int64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int64(min(uint64(limit.Cur), 1<<31))
}
