//go:build unix

// Package process starts real programs for trials that are programs
// themselves (test/drill, test/load), and leaves none behind: what a [Starter]
// started ends with it, in whatever way that ends.
//
//	NewStarter ─► Start ─► Start ─► … ─► EndAll
//	                 ▲ the kernel ends them, too, when this program dies (Linux)
package process

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Starter starts processes, and ends them all. It has a thread of its own: the
// kernel ends them, too, when that thread ends, so that not even a SIGKILL of
// this program leaves one behind (Linux).
type Starter struct {
	wishes chan func()

	mu      sync.Mutex // guards running
	running []*Process
}

// Process is one that was started.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// NewStarter makes a Starter that has started nothing.
func NewStarter() *Starter {
	s := &Starter{wishes: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for wish := range s.wishes {
			wish()
		}
	}()
	return s
}

// Start starts a command. Its SysProcAttr gets a process group of its own:
// Ctrl-C is this program's to handle.
func (s *Starter) Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithThread(cmd.SysProcAttr)
	failed := make(chan error)
	s.wishes <- func() { failed <- cmd.Start() }
	if err := <-failed; err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	s.mu.Lock()
	s.running = append(s.running, p)
	s.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is of no interest: most are killed
		close(p.done)
	}()
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// End asks a process to end, and kills it when it doesn't.
func (p *Process) End(signal syscall.Signal) {
	_ = p.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.Kill()
	}
}

// Kill ends a process as a power cut would.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// EndAll ends what still runs, the last started first: the database after
// everybody that uses it.
func (s *Starter) EndAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.running) - 1; i >= 0; i-- {
		s.running[i].End(syscall.SIGINT)
	}
	s.running = nil
	close(s.wishes)
}
