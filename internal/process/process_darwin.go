package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// handle is a kqueue that watches for the end of one process (EVFILT_PROC, NOTE_EXIT) and for a user event that stops the
// watch. A goroutine blocks in it.
type handle struct {
	pid int
	kq  int
}

const releaseEvent = 1

func open(pid int) (handle, error) {
	kq, err := unix.Kqueue()
	if err != nil {
		return handle{}, fmt.Errorf("make a kqueue: %w", err)
	}
	unix.CloseOnExec(kq)
	var changes [2]unix.Kevent_t
	unix.SetKevent(&changes[0], releaseEvent, unix.EVFILT_USER, unix.EV_ADD|unix.EV_CLEAR)
	unix.SetKevent(&changes[1], pid, unix.EVFILT_PROC, unix.EV_ADD)
	changes[1].Fflags = unix.NOTE_EXIT
	_, err = unix.Kevent(kq, changes[:], nil, nil)
	if err != nil {
		unix.Close(kq)
		if errors.Is(err, unix.ESRCH) {
			return handle{}, ErrGone
		}
		return handle{}, fmt.Errorf("watch process %d: %w", pid, err)
	}
	return handle{pid: pid, kq: kq}, nil
}

func (h handle) alive() error {
	if err := unix.Kill(h.pid, 0); errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return nil
}

func (h handle) wait() bool {
	var events [1]unix.Kevent_t
	for {
		n, err := unix.Kevent(h.kq, nil, events[:], nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return false
		case n == 1 && events[0].Filter == unix.EVFILT_PROC:
			return true
		case n == 1:
			unix.Close(h.kq)
			return false
		}
	}
}

// signal signals by PID, as macOS has nothing better. For a child that is exact; for another process there is a moment
// between its end and the notice of it in which the number might change hands.
func (h handle) signal(s syscall.Signal) error {
	if err := unix.Kill(h.pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

func (h handle) close() { unix.Close(h.kq) }

func (h handle) release() {
	var change [1]unix.Kevent_t
	unix.SetKevent(&change[0], releaseEvent, unix.EVFILT_USER, 0)
	change[0].Fflags = unix.NOTE_TRIGGER
	_, _ = unix.Kevent(h.kq, change[:], nil, nil)
}

func closeInherited() {}

// BootID is a UUID that the kernel makes at boot.
func BootID() (string, error) {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return id, nil
}

func startTime(pid int) (uint64, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		if errors.Is(err, syscall.EIO) || errors.Is(err, unix.ESRCH) {
			return 0, ErrGone
		}
		return 0, fmt.Errorf("read the start time of process %d: %w", pid, err)
	}
	return micros(info), nil
}

// stateStopped is SSTOP of sys/proc.h.
const stateStopped = 4

// stopped reports whether a process is.
func stopped(pid int) (bool, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	if err != nil {
		return false, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return info.Proc.P_stat == stateStopped, nil
}

func micros(info *unix.KinfoProc) uint64 {
	return uint64(info.Proc.P_starttime.Sec)*1_000_000 + uint64(info.Proc.P_starttime.Usec)
}

// FindByArg returns our user's processes that have arg among their arguments, exactly. Those of others are for Linux, where a
// VMM may have a user of its own.
func FindByArg(arg string, _ ...int) ([]Identity, error) {
	bootID, err := BootID()
	if err != nil {
		return nil, err
	}
	all, err := unix.SysctlKinfoProcSlice("kern.proc.uid", os.Geteuid())
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	want := []byte("\x00" + arg + "\x00")
	var found []Identity
	for i := range all {
		pid := int(all[i].Proc.P_pid)
		argv, err := unix.SysctlRaw("kern.procargs2", pid)
		if err != nil || !bytes.Contains(argv, want) {
			continue
		}
		found = append(found, Identity{PID: pid, StartTime: micros(&all[i]), BootID: bootID})
	}
	return found, nil
}
