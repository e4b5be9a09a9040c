//go:build unix && !linux

package main

import "syscall"

// diesWithParent says whether dieWith does anything.
const diesWithParent = false

// dieWith does nothing: only Linux ends children with their parent. Elsewhere
// a SIGKILL of this process leaves the servers running.
func dieWith(*syscall.SysProcAttr, syscall.Signal) {}

// dieWithGoRun does nothing; see process_linux.go.
func dieWithGoRun() {}
