//go:build unix

package main

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// starter starts processes, and ends them all. It has a thread of its own: the
// kernel ends them, too, when that thread ends, so that not even a SIGKILL of
// the drill leaves one behind (Linux).
type starter struct {
	wishes chan func()

	mu      sync.Mutex // guards running
	running []*process
}

// process is one that was started; done is closed when it has ended.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func newStarter() *starter {
	s := &starter{wishes: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for wish := range s.wishes {
			wish()
		}
	}()
	return s
}

func (s *starter) start(cmd *exec.Cmd) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // Ctrl-C is the drill's to handle
	dieWithThread(cmd.SysProcAttr)
	failed := make(chan error)
	s.wishes <- func() { failed <- cmd.Start() }
	if err := <-failed; err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	s.mu.Lock()
	s.running = append(s.running, p)
	s.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is of no interest: most are killed
		close(p.done)
	}()
	return p, nil
}

// end asks a process to end, and kills it when it doesn't.
func (p *process) end(signal syscall.Signal) {
	_ = p.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.kill()
	}
}

// kill ends a process as a power cut would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// endAll ends what still runs, the last started first: the database after
// everybody that uses it.
func (s *starter) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.running) - 1; i >= 0; i-- {
		s.running[i].end(syscall.SIGINT)
	}
	s.running = nil
	close(s.wishes)
}
