package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

func stat(req *guestv1.StatFile) (*guestv1.FileInfo, error) {
	path, err := clean(req.GetPath())
	if err != nil {
		return nil, err
	}
	return look(path, req.GetFollow())
}

// batch is about how many bytes of messages make a piece.
const batch = 64 << 10

func (o *operation) list(req *guestv1.ListFiles) error {
	path, err := clean(req.GetPath())
	var d *os.File
	if err == nil {
		d, err = os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := o.accept(); err != nil {
		return err
	}
	var found guestv1.FileList
	size := 0
	for {
		names, readErr := d.Readdirnames(256)
		for _, name := range names {
			f, err := entry(int(d.Fd()), name)
			if errors.Is(err, unix.ENOENT) { // since it was read
				continue
			}
			if err != nil {
				return o.end(&guestv1.FilesResult{Failure: failure(err)})
			}
			found.Files = append(found.Files, f)
			if size += proto.Size(f); size > batch {
				if err := o.send(&found); err != nil {
					return err
				}
				found.Files, size = nil, 0
			}
		}
		if readErr != nil {
			if len(found.Files) > 0 {
				if err := o.send(&found); err != nil {
					return err
				}
			}
			if errors.Is(readErr, io.EOF) {
				readErr = nil
			}
			return o.end(&guestv1.FilesResult{Failure: failure(readErr)})
		}
	}
}

// send sends a message as a piece.
func (o *operation) send(m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode what was found: %w", err)
	}
	_, err = o.out.Write(b)
	return err
}

func entry(dir int, name string) (*guestv1.FileInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, fmt.Errorf("look at %q: %w", name, err)
	}
	target := ""
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		buf := make([]byte, maxPath+1)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return nil, fmt.Errorf("read the link %q: %w", name, err)
		}
		target = string(buf[:n])
	}
	return info(name, &st, target), nil
}

func mkdir(req *guestv1.MakeDirectory) (*guestv1.FileInfo, error) {
	path, err := clean(req.GetPath())
	if err != nil {
		return nil, err
	}
	mode := req.GetMode() & 0o7777
	if mode == 0 {
		mode = 0o755
	}
	path = filepath.Clean(path)
	if req.GetParents() {
		if fi, err := os.Stat(path); err == nil && fi.IsDir() {
			return look(path, true)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
	}
	if err := unix.Mkdir(path, mode&0o777); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	if err := unix.Chmod(path, mode); err != nil { // whatever the umask
		return nil, &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	return look(path, true)
}

func remove(req *guestv1.RemoveFile) error {
	path, err := clean(req.GetPath())
	if err != nil {
		return err
	}
	// The link itself, unless the path says that it means a directory.
	if path, err = resolve(path, false); err == nil {
		_, err = os.Lstat(path)
	}
	if err != nil {
		if req.GetForce() && errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	if path == "/" {
		return fmt.Errorf("remove /: %w", unix.EBUSY)
	}
	if req.GetRecursive() {
		return os.RemoveAll(path)
	}
	return os.Remove(path)
}

func rename(req *guestv1.RenameFile) error {
	from, err := clean(req.GetFrom())
	if err != nil {
		return err
	}
	to, err := clean(req.GetTo())
	if err != nil {
		return err
	}
	flags := uint(0)
	if req.GetExclusive() {
		flags = unix.RENAME_NOREPLACE
	}
	from, to = strings.TrimSuffix(from, "/."), strings.TrimSuffix(to, "/.")
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func chmod(req *guestv1.ChangeMode) error {
	path, err := clean(req.GetPath())
	if err != nil {
		return err
	}
	if err := unix.Chmod(path, req.GetMode()&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}
