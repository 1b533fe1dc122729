package process

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// handle is a pidfd, pidfd_open(2), in the care of the runtime's poller: a goroutine that waits for it costs no thread.
type handle struct {
	file *os.File
	conn syscall.RawConn
}

func open(pid int) (handle, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: a thread has that number now
		return handle{}, ErrGone
	}
	if err != nil {
		return handle{}, fmt.Errorf("open process %d: %w", pid, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // this is what makes os.NewFile hand it to the poller
		unix.Close(fd)
		return handle{}, fmt.Errorf("open process %d: %w", pid, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return handle{}, fmt.Errorf("open process %d: %w", pid, err)
	}
	return handle{file: file, conn: conn}, nil
}

// ended reports whether the process of a pidfd has: the pidfd is readable then, also while it is a zombie.
func ended(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && n == 1
		}
	}
}

func (h handle) alive() error {
	gone := true
	if err := h.conn.Control(func(fd uintptr) { gone = ended(fd) }); err != nil {
		return err
	}
	if gone {
		return ErrGone
	}
	return nil
}

// wait returns true when the process has ended, false when the handle was released.
func (h handle) wait() bool { return h.conn.Read(ended) == nil }

// signal sends a signal. That the process has ended is no error.
func (h handle) signal(s syscall.Signal) error {
	var err error
	if cerr := h.conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), s, nil, 0) }); cerr != nil {
		return cerr
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (h handle) close()   { h.file.Close() }
func (h handle) release() { h.file.Close() }

// closeInherited keeps descriptors that we ourselves inherited from whoever started us out of our children. What we opened
// has close-on-exec already. Kernels before 5.11 cannot do it, and go without.
func closeInherited() { _ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) }

// BootID is a random number that the kernel makes at boot: random(4).
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// startTime reads field 22 of /proc/pid/stat: clock ticks since boot.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, ErrGone
	}
	if err != nil {
		return 0, fmt.Errorf("read the start time of process %d: %w", pid, err)
	}
	return parseStartTime(b)
}

// stopped reports whether none of a process's threads runs on until it is continued: field 3 of each one's stat, proc(5).
func stopped(pid int) (bool, error) {
	stats, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/stat")
	if err != nil {
		return false, fmt.Errorf("list the threads of process %d: %w", pid, err)
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it ended
		}
		if err != nil {
			return false, fmt.Errorf("look at a thread of process %d: %w", pid, err)
		}
		state := bytes.TrimLeft(b[bytes.LastIndexByte(b, ')')+1:], " ")
		if len(state) == 0 || !bytes.ContainsRune([]byte("TtZX"), rune(state[0])) {
			return false, nil
		}
	}
	return true, nil
}

// parseStartTime finds field 22 of a stat line. Field 2, the program's name, may itself hold spaces and parentheses.
func parseStartTime(stat []byte) (uint64, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // from field 3 on
	if len(fields) < 20 {
		return 0, fmt.Errorf("read a start time: the stat line has too few fields")
	}
	t, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read a start time: %w", err)
	}
	return t, nil
}

// FindByArg returns the processes that have arg among their arguments, exactly, of our user and of the others that are named.
func FindByArg(arg string, uids ...int) ([]Identity, error) {
	bootID, err := BootID()
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	want := []byte("\x00" + arg + "\x00")
	var found []Identity
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil || int(st.Uid) != os.Geteuid() && !slices.Contains(uids, int(st.Uid)) {
			continue // it ended meanwhile, or is somebody else's
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		start, err := startTime(pid) // before the arguments: if the PID changes hands in between, Open says so
		if err != nil {
			continue
		}
		argv, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !bytes.Contains(argv, want) {
			continue
		}
		found = append(found, Identity{PID: pid, StartTime: start, BootID: bootID})
	}
	return found, nil
}
