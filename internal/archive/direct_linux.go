package archive

import (
	"golang.org/x/sys/unix"
)

// setDirect says whether an open file is read and written past the page cache from now on. It returns false when its file
// system cannot do that.
func setDirect(fd int, on bool) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return false
	}
	flags &^= unix.O_DIRECT
	if on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
	return err == nil
}
