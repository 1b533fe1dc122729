// Package process starts programs that outlive us, and finds them again. A process is known by an Identity, never by its
// PID alone, which the kernel gives to the next one; what follows its end is an event of the kernel (a pidfd on Linux, a
// kqueue on macOS), not a question asked again and again.
package process

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
)

// ErrGone is returned by Open when the process no longer runs.
var ErrGone = errors.New("the process is gone")

// Identity names one process for all time on one host. Two are the same process only when all three agree.
type Identity struct {
	PID       int
	StartTime uint64 // Linux: clock ticks since boot, field 22 of /proc/pid/stat, proc(5); macOS: microseconds since 1970
	BootID    string
}

// Spec says what to start.
type Spec struct {
	Path   string     // of the program; absolute
	Args   []string   // argv, with the program's name first
	Env    []string   // the whole environment
	Dir    string     // working directory
	Output *os.File   // stdout and stderr
	Errors *os.File   // stderr, when it is another
	Files  []*os.File // become descriptors 3, 4, … of the process
	// Attr has what else the system is asked for, such as namespaces; that the session is its own is added.
	Attr syscall.SysProcAttr
}

// Status says how a process ended.
type Status struct {
	Code   int    // exit code; -1 when a signal ended it, or it is not our child
	Signal string // name of the signal that ended it, e.g. "killed"; empty when none or not known
}

// Process is a running process: our child, or one that was opened by its identity.
type Process struct {
	id     Identity
	handle handle
	done   chan struct{}
	status Status // valid after done

	mu     sync.Mutex
	closed bool // handle is closed and the PID may be somebody else's
}

// Start runs a program in a session of its own: it has no terminal, gets /dev/null as stdin, inherits no descriptor but
// those of spec, and is not told when we end.
func Start(spec Spec) (*Process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("open the null device: %w", err)
	}
	defer null.Close()
	bootID, err := BootID()
	if err != nil {
		return nil, err
	}
	files := []uintptr{null.Fd(), spec.Output.Fd(), spec.Output.Fd()}
	if spec.Errors != nil {
		files[2] = spec.Errors.Fd()
	}
	for _, f := range spec.Files {
		files = append(files, f.Fd())
	}
	closeInherited()
	spec.Attr.Setsid = true
	attr := &syscall.ProcAttr{Dir: spec.Dir, Env: spec.Env, Files: files, Sys: &spec.Attr}
	pid, err := syscall.ForkExec(spec.Path, spec.Args, attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	// Until we wait for it the PID stays its own, even if it has ended.
	p := &Process{id: Identity{PID: pid, BootID: bootID}, done: make(chan struct{})}
	if p.id.StartTime, err = startTime(pid); err == nil {
		p.handle, err = open(pid)
	}
	if err != nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		reap(pid, 0)
		return nil, fmt.Errorf("take hold of %s after its start: %w", spec.Path, err)
	}
	go p.watch()
	return p, nil
}

// Open takes hold of a process that an earlier process of ours started. It returns ErrGone when it has ended.
func Open(id Identity) (*Process, error) {
	bootID, err := BootID()
	if err != nil {
		return nil, err
	}
	if id.PID <= 0 || id.BootID != bootID {
		return nil, ErrGone
	}
	h, err := open(id.PID)
	if err != nil {
		return nil, err
	}
	// The handle holds one process now: if its start time is the right one, it is the right one for good.
	start, err := startTime(id.PID)
	if err == nil && start != id.StartTime {
		err = ErrGone
	}
	if err == nil {
		err = h.alive()
	}
	if err != nil {
		h.close()
		return nil, err
	}
	p := &Process{id: id, handle: h, done: make(chan struct{})}
	go p.watch()
	return p, nil
}

// watch waits for the end of the process, or for Release.
func (p *Process) watch() {
	if !p.handle.wait() {
		return // released
	}
	p.mu.Lock()
	p.status = reap(p.id.PID, syscall.WNOHANG)
	p.handle.close()
	p.closed = true
	p.mu.Unlock()
	close(p.done)
}

// reap collects a child that has ended, so that it does not stay as a zombie. For anything else it is without effect.
func reap(pid, options int) Status {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(pid, &ws, options, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil || got != pid:
			return Status{Code: -1}
		case ws.Signaled():
			return Status{Code: -1, Signal: ws.Signal().String()}
		}
		return Status{Code: ws.ExitStatus()}
	}
}

// Identity of the process.
func (p *Process) Identity() Identity { return p.id }

// Done is closed when the process has ended. It is never closed after Release.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how the process ended. It is valid after Done.
func (p *Process) Exit() Status { return p.status }

// Kill sends SIGKILL. That the process has ended already is not an error.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill process %d: %w", p.id.PID, err)
	}
	return nil
}

// Release lets go of the process without ending it. A child of ours that ends later is a zombie until we end.
func (p *Process) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.handle.release()
	}
}
