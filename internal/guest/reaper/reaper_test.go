package reaper

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newReaper(t *testing.T) *Reaper {
	t.Helper()
	r := New()
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run() }()
	t.Cleanup(func() { r.Close(); <-ended })
	return r
}

func start(t *testing.T, r *Reaper, script string) *Process {
	t.Helper()
	p, err := r.Start("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestStatuses starts many children at once, and expects each to get its own status.
func TestStatuses(t *testing.T) {
	r := newReaper(t)
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			p, err := r.Start("/bin/sh", []string{"sh", "-c", "exit " + string(rune('0'+i%10))}, &syscall.ProcAttr{})
			if err != nil {
				t.Error(err)
				return
			}
			<-p.Done()
			if s := p.Status(); !s.Exited() || s.ExitStatus() != i%10 {
				t.Errorf("child %d ended with %v", i, s)
			}
		})
	}
	all.Wait()
	<-r.Empty()
}

func TestSignalGroup(t *testing.T) {
	r := newReaper(t)
	p := start(t, r, "sleep 1000 & sleep 1000")
	if err := p.SignalGroup(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if s := p.Status(); !s.Signaled() || s.Signal() != unix.SIGKILL {
		t.Errorf("it ended with %v", s)
	}
	if err := p.SignalGroup(unix.SIGKILL); !errors.Is(err, ErrGone) {
		t.Errorf("a signal to a process that has ended: %v", err)
	}
	if _, err := r.Start("/nonexistent", []string{"x"}, &syscall.ProcAttr{}); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}

// TestOrphans checks that what a child leaves behind is collected, as PID 1 has to.
func TestOrphans(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skip("cannot become the parent of orphans: ", err)
	}
	r := newReaper(t)
	p := start(t, r, "(sleep 0.1; exit 3) & (exit 4) & exit 5")
	<-p.Done()
	if p.Status().ExitStatus() != 5 {
		t.Errorf("it ended with %v", p.Status())
	}
	<-r.Empty()
	if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("there are children left: %v", err)
	}
}

// TestSignalsMeanNothing sends this process what would end it.
func TestSignalsMeanNothing(t *testing.T) {
	r := newReaper(t)
	for _, s := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGSEGV, unix.SIGABRT, unix.SIGTRAP, unix.SIGSYS, unix.SIGPIPE, unix.SIGXCPU} {
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, r, "exit 0") // its end is noticed behind them
	<-p.Done()
}
