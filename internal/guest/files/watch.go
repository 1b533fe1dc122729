package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// watchMask is what is told of: inotify(7).
const watchMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_CLOSE_WRITE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_EXCL_UNLINK

// watch tells of changes until the host closes the stream or what is watched is gone.
func (o *operation) watch(req *guestv1.WatchFiles) error {
	w, err := newWatcher(req)
	if err != nil {
		return err
	}
	defer w.file.Close()
	if err := o.accept(); err != nil {
		return err
	}
	go func() { // ends with the stream
		_, _ = io.Copy(io.Discard, o.conn)
		_ = w.file.Close()
	}()
	w.tell(guestv1.WatchEvent_READY, w.root, false)
	for {
		if err := w.flush(o); err != nil {
			return err
		}
		if w.gone {
			return o.end(&guestv1.FilesResult{})
		}
		if err := w.next(); errors.Is(err, os.ErrClosed) {
			return nil // the host does not listen any more
		} else if err != nil {
			return o.end(&guestv1.FilesResult{Failure: failure(err)})
		}
	}
}

// watcher follows a file or directory by inotify.
type watcher struct {
	file      *os.File
	fd        int
	root      string
	recursive bool
	paths     map[int32]string // of each watch
	buf       []byte
	events    []*guestv1.WatchEvent
	moved     *moved // half of a move, whose other half may follow at once
	gone      bool
}

// moved is what has left a directory.
type moved struct {
	cookie    uint32
	path      string
	directory bool
}

func newWatcher(req *guestv1.WatchFiles) (*watcher, error) {
	path, err := clean(req.GetPath())
	if err != nil {
		return nil, err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	w := &watcher{
		file: os.NewFile(uintptr(fd), "inotify"), fd: fd, root: path, recursive: req.GetRecursive(), paths: map[int32]string{},
		buf: make([]byte, 64<<10),
	}
	err = w.add(path)
	if err == nil && w.recursive {
		err = w.addBelow(path, false)
	}
	if err != nil {
		_ = w.file.Close()
		return nil, err
	}
	return w, nil
}

// add watches one file or directory.
func (w *watcher) add(path string) error {
	wd, err := unix.InotifyAddWatch(w.fd, path, watchMask|unix.IN_DONT_FOLLOW)
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("watch %s: there are more directories than fs.inotify.max_user_watches of the guest: %w", path, err)
	}
	if err != nil {
		return &os.PathError{Op: "watch", Path: path, Err: err}
	}
	w.paths[int32(wd)] = path
	return nil
}

// addBelow watches all directories below one; with tell it tells of all that is there, which nothing else did.
func (w *watcher) addBelow(dir string, tell bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if path == dir && err == nil {
			return nil
		}
		if err == nil && tell {
			w.tell(guestv1.WatchEvent_CREATED, path, d.IsDir())
		}
		if err == nil && d.IsDir() {
			err = w.add(path)
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) { // since it was read
			return nil
		}
		return err
	})
}

func (w *watcher) tell(kind guestv1.WatchEvent_Kind, path string, directory bool) *guestv1.WatchEvent {
	e := &guestv1.WatchEvent{Kind: kind, Path: []byte(path), Directory: directory}
	w.events = append(w.events, e)
	return e
}

// flush sends the events, some at a time.
func (w *watcher) flush(o *operation) error {
	var m guestv1.WatchEvents
	size := 0
	for i, e := range w.events {
		m.Events = append(m.Events, e)
		if size += proto.Size(e); size > batch || i == len(w.events)-1 {
			if err := o.send(&m); err != nil {
				return err
			}
			m.Events, size = nil, 0
		}
	}
	w.events = nil
	return nil
}

// next waits for events and takes them all in.
func (w *watcher) next() error {
	n, err := w.file.Read(w.buf)
	if err != nil {
		return err
	}
	for b := w.buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		wd, mask, cookie, length := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:])
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+length]), "\x00")
		b = b[unix.SizeofInotifyEvent+length:]
		if err := w.event(wd, mask, cookie, name); err != nil {
			return err
		}
	}
	w.leave()
	return nil
}

// event takes one in.
func (w *watcher) event(wd int32, mask, cookie uint32, name string) error {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		w.leave()
		w.tell(guestv1.WatchEvent_OVERFLOW, w.root, false)
		if !w.recursive {
			return nil
		}
		return w.addBelow(w.root, false) // directories may have been made meanwhile
	}
	dir, ok := w.paths[wd]
	if !ok {
		return nil
	}
	path, directory := dir, mask&unix.IN_ISDIR != 0
	if name != "" {
		path = filepath.Join(dir, name)
	}
	if w.moved != nil && (mask&unix.IN_MOVED_TO == 0 || w.moved.cookie != cookie) {
		w.leave()
	}
	switch {
	case mask&unix.IN_IGNORED != 0:
		delete(w.paths, wd)
	case mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT) != 0:
		if dir == w.root {
			w.tell(guestv1.WatchEvent_GONE, dir, directory)
			w.gone = true
		}
	case mask&unix.IN_CREATE != 0:
		w.tell(guestv1.WatchEvent_CREATED, path, directory)
		return w.grown(path, directory)
	case mask&unix.IN_MOVED_FROM != 0:
		w.moved = &moved{cookie, path, directory}
	case mask&unix.IN_MOVED_TO != 0:
		if m := w.moved; m != nil {
			w.moved = nil
			w.tell(guestv1.WatchEvent_MOVED, path, directory).From = []byte(m.path)
			w.follow(m.path, path)
			return nil
		}
		w.tell(guestv1.WatchEvent_CREATED, path, directory)
		return w.grown(path, directory)
	case mask&unix.IN_DELETE != 0:
		w.tell(guestv1.WatchEvent_REMOVED, path, directory)
	case mask&unix.IN_CLOSE_WRITE != 0:
		w.tell(guestv1.WatchEvent_WRITTEN, path, directory)
	case mask&unix.IN_MODIFY != 0:
		w.tell(guestv1.WatchEvent_MODIFIED, path, directory)
	case mask&unix.IN_ATTRIB != 0:
		w.tell(guestv1.WatchEvent_ATTRIBUTES, path, directory)
	}
	return nil
}

// grown watches a directory that has appeared.
func (w *watcher) grown(path string, directory bool) error {
	if !directory || !w.recursive {
		return nil
	}
	err := w.add(path)
	if err == nil {
		err = w.addBelow(path, true)
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) { // gone again
		return nil
	}
	return err
}

// follow gives the watches of a directory that was renamed their new paths.
func (w *watcher) follow(from, to string) {
	for wd, path := range w.paths {
		if path == from || strings.HasPrefix(path, from+"/") {
			w.paths[wd] = to + path[len(from):]
		}
	}
}

// leave tells of what was moved to where nobody watches.
func (w *watcher) leave() {
	m := w.moved
	if m == nil {
		return
	}
	w.moved = nil
	w.tell(guestv1.WatchEvent_REMOVED, m.path, m.directory)
	for wd, path := range w.paths {
		if path == m.path || strings.HasPrefix(path, m.path+"/") {
			_, _ = unix.InotifyRmWatch(w.fd, uint32(wd))
			delete(w.paths, wd)
		}
	}
}
