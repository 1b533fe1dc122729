package files

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/transport/pieces"
)

func (o *operation) read(req *guestv1.ReadFile) error {
	f, st, err := openFile(req.GetPath())
	if err == nil && req.GetOffset() > 1<<62 {
		err = fmt.Errorf("the offset is out of range: %w", unix.EINVAL)
	}
	if err == nil && req.GetOffset() > 0 {
		_, err = f.Seek(int64(req.GetOffset()), io.SeekStart)
	}
	if err != nil {
		if f != nil {
			_ = f.Close()
		}
		return err
	}
	defer f.Close()
	if err := o.accept(); err != nil {
		return err
	}
	if err := o.send(info(f.Name(), st, "")); err != nil {
		return err
	}
	var r io.Reader = f
	if n := req.GetLength(); n > 0 && n < 1<<62 {
		r = io.LimitReader(f, int64(n))
	}
	o.sendFar()
	buf := o.memory()
	if buf == nil {
		buf = make([]byte, pieces.Max)
	}
	for {
		n, readErr := r.Read(buf)
		if _, err := o.out.Write(buf[:n]); err != nil {
			return nil // the host has enough
		}
		if errors.Is(readErr, io.EOF) {
			readErr = nil
		} else if readErr == nil {
			continue
		}
		return o.end(&guestv1.FilesResult{Failure: failure(readErr)})
	}
}

// openFile opens a regular file to read. It waits for nobody, as opening a fifo would.
func openFile(p []byte) (*os.File, *unix.Stat_t, error) {
	path, err := clean(p)
	if err == nil {
		path, err = resolve(path, true)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	st := new(unix.Stat_t)
	if err := unix.Fstat(int(f.Fd()), st); err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("look at %s: %w", path, err)
	}
	if err := regular(path, st); err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, st, nil
}

func regular(path string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		return &os.PathError{Op: "open", Path: path, Err: unix.EISDIR}
	}
	return fmt.Errorf("%s is no regular file: %w", path, unix.EINVAL)
}

func (o *operation) write(req *guestv1.WriteFile) error {
	w, err := newReplacement(req)
	if err != nil {
		return err
	}
	if err := o.accept(); err != nil {
		w.discard()
		return err
	}
	found, err := w.fill(o.source(), req.GetSync())
	w.discard() // first: who hears that the disk is full may want the room at once
	return o.end(&guestv1.FilesResult{Failure: failure(err), Info: found})
}

// replacement is a file that takes another's place when it is whole.
type replacement struct {
	path string // without links
	f    *os.File
}

func newReplacement(req *guestv1.WriteFile) (*replacement, error) {
	path, err := clean(req.GetPath())
	if err != nil {
		return nil, err
	}
	mode := req.GetMode() & 0o777
	if mode == 0 {
		mode = 0o644
	}
	old := new(unix.Stat_t)
	real, err := resolve(path, true)
	switch {
	case errors.Is(err, os.ErrNotExist):
		old = nil
		if real, err = resolve(path, false); err != nil {
			return nil, err
		}
		if _, err := os.Lstat(real); err == nil {
			return nil, fmt.Errorf("%s is a link to nothing: %w", path, unix.ENOENT)
		}
	case err != nil:
		return nil, err
	default:
		if err := unix.Stat(real, old); err != nil {
			return nil, &os.PathError{Op: "look at", Path: real, Err: err}
		}
		if err := regular(real, old); err != nil {
			return nil, err
		}
		mode = old.Mode & 0o7777
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(real), ".agentkernel-"+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	w := &replacement{real, f}
	if old != nil {
		err = unix.Fchown(int(f.Fd()), int(old.Uid), int(old.Gid))
	}
	if err == nil {
		err = unix.Fchmod(int(f.Fd()), mode)
	}
	if err != nil {
		w.discard()
		return nil, fmt.Errorf("give %s its mode: %w", real, err)
	}
	return w, nil
}

// fill takes the content and puts the file in its place.
func (w *replacement) fill(r io.Reader, sync bool) (*guestv1.FileInfo, error) {
	// Without the file's ReadFrom, which would take a buffer of its own.
	if _, err := io.CopyBuffer(struct{ io.Writer }{w.f}, r, make([]byte, pieces.Max)); err != nil {
		return nil, fmt.Errorf("take the content of %s: %w", w.path, err)
	}
	if sync {
		if err := w.f.Sync(); err != nil {
			return nil, err
		}
	}
	if err := os.Rename(w.f.Name(), w.path); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(w.f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", w.path, err)
	}
	if sync {
		if err := syncDir(filepath.Dir(w.path)); err != nil {
			return nil, err
		}
	}
	return info(w.path, &st, ""), nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// discard removes the file unless it has taken its place.
func (w *replacement) discard() {
	_ = os.Remove(w.f.Name()) // not there any more when it was renamed
	_ = w.f.Close()
}
