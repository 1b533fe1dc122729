package snapshot

import (
	"io/fs"
	"os"
	"syscall"
	"time"
)

// stamp is what tells that a file is the one that it was, unchanged.
type stamp struct {
	dev, inode      uint64
	size            int64
	content, change time.Time // mtime, ctime
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), content: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.dev, s.inode, s.change = uint64(st.Dev), st.Ino, changeTime(st) //nolint:unconvert // other types elsewhere
	}
	return s
}

// openFile opens a regular file of our own to read it.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}
