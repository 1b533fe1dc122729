package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// UnpackOptions of Unpack. The zero value is what a stream from a guest may do on the host.
type UnpackOptions struct {
	// Only is the one name in the target directory that members may have, or be below of; "" allows all.
	Only string
	// Owner gives what is made the archive's numeric owners, and with them set-id bits; else all belongs to the caller.
	Owner bool
	// SetID keeps set-id and sticky bits also without Owner.
	SetID bool
	// Devices makes device nodes; else they are left out.
	Devices bool
	// KeepXattr says which extended attributes are set.
	KeepXattr func(name string) bool
	// Direct, when it is set, has large files written past the page cache. It is the memory into which content is read,
	// DirectSize bytes from the begin of a page on.
	Direct []byte
}

// ConflictError is returned when a member cannot take the place of what is there.
type ConflictError struct {
	Name string
	Why  string
}

func (e *ConflictError) Error() string { return fmt.Sprintf("cannot write %.200q: %s", e.Name, e.Why) }

// FormatError is returned for a stream that is no tar archive, or ends within one.
type FormatError struct{ Err error }

func (e *FormatError) Error() string { return "read the archive: " + e.Err.Error() }
func (e *FormatError) Unwrap() error { return e.Err }

// Unpack makes the members of a tar archive, of any format, in a directory that exists.
//
// A directory takes its place beside what is in one of its name, and any other member takes the place of one that is no
// directory. A file is there whole or not at all, and what was there before stays until then; a small one that is new is
// written under its own name at once, in one piece. The target directory itself keeps its mode, owner and time.
func Unpack(r io.Reader, dir string, o UnpackOptions) (Warnings, error) {
	root, err := open(unix.AT_FDCWD, dir, unix.O_DIRECTORY)
	if err != nil {
		return Warnings{}, fmt.Errorf("open the target directory %s: %w", dir, err)
	}
	u := &unpacker{o: o, tree: newTree(root), umask: umask()}
	if u.buf = o.Direct; u.buf == nil {
		u.buf = make([]byte, bufferSize)
	}
	defer unix.Close(root)
	err = u.members(r)
	if leaveErr := u.tree.leave(0); err == nil && leaveErr != nil {
		err = leaveErr
	}
	return u.warnings, err
}

type unpacker struct {
	o        UnpackOptions
	tree     tree
	buf      []byte
	umask    uint32
	parts    []string // of the last member's name; used again for the next
	warnings Warnings
}

func (u *unpacker) members(r io.Reader) error {
	source := &source{r: r}
	t := newReader(source)
	for {
		h, err := t.next()
		if errors.Is(err, io.EOF) {
			// What follows the archive is padding; whoever sends it shall not meet a closed pipe.
			_, err := io.CopyBuffer(discard{}, io.LimitReader(source, maxPadding), u.buf)
			return err
		}
		if err != nil {
			return source.explain(err)
		}
		if err := u.member(t, h); err != nil {
			return source.explain(err)
		}
	}
}

// source remembers why reading failed, to tell that from a broken archive and from a failure to write.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func (s *source) explain(err error) error {
	switch {
	case s.err != nil:
		return s.err
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong), errors.Is(err, io.ErrUnexpectedEOF):
		return &FormatError{err}
	}
	return err
}

// maxPadding bounds what is read behind the end of an archive, in bytes.
const maxPadding = 16 << 20

// discard is io.Discard without its own buffers.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// member makes one member.
func (u *unpacker) member(t io.Reader, h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parts, err := appendSplit(u.parts[:0], h.Name)
	if err != nil {
		return err
	}
	u.parts = parts
	if len(parts) == 0 {
		if h.Typeflag == tar.TypeDir {
			return nil
		}
		return &NameError{h.Name, "has no name below the target"}
	}
	if err := u.allowed(h.Name, parts); err != nil {
		return err
	}
	if u.o.Owner && (h.Uid < 0 || h.Gid < 0 || h.Uid >= math.MaxUint32 || h.Gid >= math.MaxUint32) {
		return &NameError{h.Name, fmt.Sprintf("has the owner %d:%d, which is none", h.Uid, h.Gid)}
	}
	parent, base := parts[:len(parts)-1], parts[len(parts)-1]
	dir, err := u.tree.enter(parent)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		err = u.directory(parts, h)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		err = u.file(dir, base, h, t)
	case tar.TypeSymlink:
		err = u.special(dir, base, h, func(name string) error { return unix.Symlinkat(h.Linkname, dir, name) })
	case tar.TypeLink:
		err = u.link(dir, base, h)
	case tar.TypeFifo:
		err = u.special(dir, base, h, func(name string) error { return mkfifo(dir, name) })
	case tar.TypeChar, tar.TypeBlock:
		if !u.o.Devices {
			u.warnings.add("left out %.200q: it is a device", h.Name)
			return nil
		}
		err = u.special(dir, base, h, func(name string) error { return mknod(dir, name, h) })
	default:
		u.warnings.add("left out %.200q: members of type %q are not known", h.Name, h.Typeflag)
	}
	return named(err, h.Name)
}

func (u *unpacker) allowed(name string, parts []string) error {
	if u.o.Only != "" && parts[0] != u.o.Only {
		return &NameError{name, fmt.Sprintf("is not in %.200q, which was asked for", u.o.Only)}
	}
	return nil
}

// named adds the member's name to an error of the system.
func named(err error, name string) error {
	if err == nil {
		return nil
	}
	var errno unix.Errno
	if errors.As(err, &errno) && !strings.Contains(err.Error(), name) {
		return fmt.Errorf("write %.200q: %w", name, err)
	}
	return err
}

// mode returns the mode that a member gets.
func (u *unpacker) mode(h *tar.Header) uint32 {
	if u.o.Owner || u.o.SetID {
		return uint32(h.Mode) & 0o7777
	}
	return uint32(h.Mode) & 0o777
}

func (u *unpacker) directory(parts []string, h *tar.Header) error {
	fd, err := u.tree.directory(parts, u.mode(h), h.ModTime)
	if err != nil {
		return err
	}
	if u.o.Owner {
		if err := chown(fd, h); err != nil {
			return err
		}
	}
	u.attributes(fd, h)
	return nil
}

func chown(fd int, h *tar.Header) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("give %.200q to %d:%d: %w", h.Name, h.Uid, h.Gid, err)
	}
	return nil
}

// special makes a member that has no content, and gives it its owner and time.
func (u *unpacker) special(dir int, base string, h *tar.Header, create func(name string) error) error {
	err := u.tree.replace(dir, base, h.Name, func(name string) error {
		if err := create(name); err != nil {
			return err
		}
		err := u.dress(dir, name, h)
		if err != nil {
			_ = unix.Unlinkat(dir, name, 0)
		}
		return err
	})
	if h.Typeflag != tar.TypeSymlink && errors.Is(err, unix.ENOTSUP) {
		u.warnings.add("left out %.200q: this system cannot make it", h.Name)
		return nil
	}
	return err
}

func (u *unpacker) dress(dir int, name string, h *tar.Header) error {
	if u.o.Owner {
		if err := unix.Fchownat(dir, name, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("give %.200q to %d:%d: %w", h.Name, h.Uid, h.Gid, err)
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(dir, name, u.mode(h), 0); err != nil {
			return err
		}
	}
	return setTime(dir, name, h.ModTime)
}

// link makes another name for a member that came before.
func (u *unpacker) link(dir int, base string, h *tar.Header) error {
	parts, err := split(h.Linkname)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return &NameError{h.Name, "is a link to the target directory"}
	}
	if err := u.allowed(h.Linkname, parts); err != nil {
		return err
	}
	from, err := u.tree.find(parts[:len(parts)-1])
	if err != nil {
		return fmt.Errorf("link %.200q to %.200q: %w", h.Name, h.Linkname, err)
	}
	defer unix.Close(from)
	target := parts[len(parts)-1]
	var there, here unix.Stat_t
	if err := unix.Fstatat(from, target, &there, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("link %.200q to %.200q: %w", h.Name, h.Linkname, err)
	}
	if err := unix.Fstatat(dir, base, &here, unix.AT_SYMLINK_NOFOLLOW); err == nil && here.Dev == there.Dev && here.Ino == there.Ino {
		return nil
	}
	return u.tree.replace(dir, base, h.Name, func(name string) error { return unix.Linkat(from, target, dir, name, 0) })
}
