package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reflink makes out share all blocks of in: ioctl_ficlone(2).
func reflink(out, in *os.File) error {
	err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd()))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return err
	}
	// Different file systems, one that cannot, or one that has never heard of it: they answer with EXDEV, EOPNOTSUPP,
	// EINVAL, ENOTTY, ENOSYS or EPERM.
	return errNoReflink
}

const (
	seekData = unix.SEEK_DATA
	seekHole = unix.SEEK_HOLE
)
