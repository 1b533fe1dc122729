package qemu

import (
	"os"

	"golang.org/x/sys/unix"
)

// widen makes a pipe large, so that its two ends wait less for each other. That it cannot is no error.
func widen(pipe *os.File) {
	conn, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
}
