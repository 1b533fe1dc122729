package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dirWatch tells of files that appear in a directory: inotify(7).
type dirWatch struct{ events *os.File }

func watchDir(dir string) (*dirWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch the runtime directory: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch the runtime directory: %w", &os.PathError{Op: "inotify_add_watch", Path: dir, Err: err})
	}
	return &dirWatch{os.NewFile(uintptr(fd), "inotify")}, nil
}

// wait returns when path, in the directory, exists, or ctx ends.
func (w *dirWatch) wait(ctx context.Context, path string) error {
	defer context.AfterFunc(ctx, func() { _ = w.events.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 4096) // any number of events: which one it was does not matter
	for {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if _, err := w.events.Read(buf); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return fmt.Errorf("wait for %s: %w", path, err)
		}
	}
}

func (w *dirWatch) close() { w.events.Close() }
