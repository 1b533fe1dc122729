package terminal

import "golang.org/x/sys/unix"

// dropInput: 1 is FREAD of fcntl.h, the input queue.
func dropInput(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TIOCFLUSH, 1) }

const (
	getTermios = unix.TIOCGETA
	setTermios = unix.TIOCSETA
)
