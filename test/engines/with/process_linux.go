package main

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

// diesWithParent says whether dieWith does anything.
const diesWithParent = true

// dieWith has the kernel send sig to the process when the thread that starts
// it ends, so that nothing survives even a SIGKILL of this process. The caller
// must be locked to its thread until the process has ended.
func dieWith(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// dieWithGoRun asks for SIGTERM when this process is a child of `go run`, which
// dies of SIGTERM without passing it on.
func dieWithGoRun() {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getppid()))
	if err != nil || string(bytes.TrimSpace(comm)) != "go" {
		return
	}
	// A failure costs nothing but this convenience.
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0)
}
