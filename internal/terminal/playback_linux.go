package terminal

import "golang.org/x/sys/unix"

func dropInput(fd int) error { return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) }

const (
	getTermios = unix.TCGETS
	setTermios = unix.TCSETS
)
