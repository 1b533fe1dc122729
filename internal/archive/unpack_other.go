//go:build !linux

package archive

import (
	"archive/tar"
	"time"

	"golang.org/x/sys/unix"
)

// mkfifo: there is no such call for a directory's descriptor here.
func mkfifo(int, string) error { return unix.ENOTSUP }

func mknod(int, string, *tar.Header) error { return unix.ENOTSUP }

// setxattr: extended attributes mean something else here than in a guest.
func setxattr(int, string, string) error { return unix.ENOTSUP }

func setTime(dir int, name string, modified time.Time) error {
	ts, err := unix.TimeToTimespec(modified)
	if err != nil {
		return nil // no file system has it
	}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func setTimeOf(fd int, modified time.Time) error {
	if _, err := unix.TimeToTimespec(modified); err != nil {
		return nil // no file system has it
	}
	tv := unix.NsecToTimeval(modified.UnixNano())
	return unix.Futimes(fd, []unix.Timeval{tv, tv})
}

func umask() uint32 { return 0o777 }
