package archive

import (
	"archive/tar"
	"bytes"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func mkfifo(dir int, name string) error { return unix.Mknodat(dir, name, unix.S_IFIFO|0o600, 0) }

func mknod(dir int, name string, h *tar.Header) error {
	mode := uint32(unix.S_IFCHR)
	if h.Typeflag == tar.TypeBlock {
		mode = unix.S_IFBLK
	}
	return unix.Mknodat(dir, name, mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
}

func setxattr(fd int, name, value string) error { return unix.Fsetxattr(fd, name, []byte(value), 0) }

// times are the arguments of utimensat(2) that set the time of the last change and nothing else.
func times(modified time.Time) [2]unix.Timespec {
	ts, err := unix.TimeToTimespec(modified)
	if err != nil { // no file system has it
		ts = unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, ts}
}

func setTime(dir int, name string, modified time.Time) error {
	ts := times(modified)
	return unix.UtimesNanoAt(dir, name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
}

// setTimeOf is futimens(3), which Linux has as utimensat(2) without a name.
func setTimeOf(fd int, modified time.Time) error {
	ts := times(modified)
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// umask returns this process's umask, or one of all bits where it is not told: umask(2) would change it for a moment.
func umask() uint32 {
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		if _, after, ok := bytes.Cut(status, []byte("\nUmask:\t")); ok {
			line, _, _ := bytes.Cut(after, []byte("\n"))
			if n, err := strconv.ParseUint(string(line), 8, 32); err == nil {
				return uint32(n)
			}
		}
	}
	return 0o777
}
