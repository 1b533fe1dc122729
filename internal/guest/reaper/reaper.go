// Package reaper is what makes a process fit to be PID 1: it starts children and collects their status, collects the orphans
// that Linux gives to PID 1, and survives the signals that they send to it.
package reaper

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrGone is returned for a signal to a process whose end was collected.
var ErrGone = errors.New("the process has ended")

// Reaper collects the status of every child of this process. There must be one in a process, and nothing else that waits
// for children.
type Reaper struct {
	signals chan os.Signal

	// mu is held while a child is started, so that its end is not collected before it is known, and while one is signalled,
	// so that its number is not given to another process meanwhile.
	mu       sync.Mutex
	children map[int]*Process
	empty    []chan struct{} // to be closed when there is no child
}

// New returns a Reaper that notices every signal from now on. Run has to be called.
//
// PID 1 gets no signal that it has no handler for: signal(7) and kill(2). But Go's runtime handles nearly all of them, and
// ends the process for most. So all are asked for, and all but SIGCHLD mean nothing. SIGURG is the runtime's own.
func New() *Reaper {
	r := &Reaper{signals: make(chan os.Signal, 1), children: make(map[int]*Process)}
	var list []os.Signal
	for s := syscall.Signal(1); s < 32; s++ {
		if s != unix.SIGKILL && s != unix.SIGSTOP && s != unix.SIGURG {
			list = append(list, s)
		}
	}
	signal.Notify(r.signals, list...)
	return r
}

// Run collects children until Close.
func (r *Reaper) Run() {
	for range r.signals {
		r.mu.Lock()
		r.collect()
		r.mu.Unlock()
	}
}

// Close lets go of the signals and ends Run.
func (r *Reaper) Close() {
	signal.Stop(r.signals)
	close(r.signals)
}

// collect takes the status of every child that has ended, and tells those who wait for there to be none. It needs mu.
func (r *Reaper) collect() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD):
			for _, c := range r.empty {
				close(c)
			}
			r.empty = nil
			return
		case pid <= 0:
			return
		default:
			if p := r.children[pid]; p != nil {
				delete(r.children, pid)
				p.status = status
				close(p.done)
			}
		}
	}
}

// Empty returns a channel that is closed once this process has no child.
func (r *Reaper) Empty() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := make(chan struct{})
	r.empty = append(r.empty, c)
	r.collect()
	return c
}

// Process is a child.
type Process struct {
	reaper *Reaper
	pid    int
	done   chan struct{}
	status syscall.WaitStatus
}

// Start starts a child, as syscall.ForkExec does.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (*Process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	p := &Process{reaper: r, pid: pid, done: make(chan struct{})}
	r.children[pid] = p
	return p, nil
}

// PID returns the process's number.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status is valid after Done.
func (p *Process) Status() syscall.WaitStatus { return p.status }

// SignalGroup sends a signal to the process group that the process leads. It returns ErrGone when the process has ended.
func (p *Process) SignalGroup(s syscall.Signal) error {
	p.reaper.mu.Lock()
	defer p.reaper.mu.Unlock()
	if p.reaper.children[p.pid] != p {
		return ErrGone
	}
	return syscall.Kill(-p.pid, s)
}
