//go:build unix && !linux

package process

import "syscall"

func dieWithThread(*syscall.SysProcAttr) {}

// DieWithGoRun does nothing here: this system has no such signal.
func DieWithGoRun() {}
