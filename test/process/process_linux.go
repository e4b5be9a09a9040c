package process

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

func dieWithThread(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// DieWithGoRun asks for SIGTERM when this process is a child of `go run`, which
// dies of SIGTERM without passing it on.
func DieWithGoRun() {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getppid()))
	if err != nil || string(bytes.TrimSpace(comm)) != "go" {
		return
	}
	// A failure costs nothing but this convenience.
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0)
}
