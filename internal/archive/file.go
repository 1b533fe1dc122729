package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// file makes a regular file.
func (u *unpacker) file(dir int, base string, h *tar.Header, r io.Reader) error {
	if h.Size > bufferSize || sparse(h) {
		return u.large(dir, base, h, r)
	}
	content := u.buf[:h.Size]
	if _, err := io.ReadFull(r, content); err != nil {
		return short(err)
	}
	return u.tree.replace(dir, base, h.Name, func(name string) error {
		return u.create(dir, name, h, func(fd int) error { return write(fd, content) })
	})
}

// short is the error for content that ends before its size.
func short(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// large makes a file under a temporary name, in pieces.
func (u *unpacker) large(dir int, base string, h *tar.Header, r io.Reader) error {
	if err := u.tree.mayReplace(dir, base, h.Name); err != nil {
		return err
	}
	temp := temporary()
	err := u.create(dir, temp, h, func(fd int) error {
		if sparse(h) {
			return u.sparse(fd, h.Size, r)
		}
		return u.content(fd, h.Size, r)
	})
	if err != nil {
		return err
	}
	if err := unix.Renameat(dir, temp, dir, base); err != nil {
		_ = unix.Unlinkat(dir, temp, 0)
		return err
	}
	return nil
}

// content writes a file of this size. What is left of a block waits for what follows it, so that direct writing is in whole
// blocks; the last is written as other files are.
func (u *unpacker) content(fd int, size int64, r io.Reader) error {
	direct := u.o.Direct != nil && size >= directFile && setDirect(fd, true)
	held := 0 // bytes at the begin of buf
	for left := size; left > 0; {
		room := u.buf[held:min(int64(len(u.buf)), int64(held)+left)]
		n, err := io.ReadAtLeast(r, room, min(len(room), smallFile))
		if err != nil {
			return short(err)
		}
		left -= int64(n)
		n += held
		now := n
		if direct {
			now &^= directUnit - 1
		}
		err = write(fd, u.buf[:now])
		if direct && errors.Is(err, unix.EINVAL) && setDirect(fd, false) { // nothing is written: the file system asks for more
			direct = false
			err = write(fd, u.buf[:now])
		}
		if err != nil {
			return err
		}
		held = copy(u.buf, u.buf[now:n])
	}
	if held > 0 && !setDirect(fd, false) {
		return unix.EINVAL
	}
	return write(fd, u.buf[:held])
}

// create makes a file that does not exist, with its content and all that belongs to it; when that fails, there is none.
func (u *unpacker) create(dir int, name string, h *tar.Header, fill func(fd int) error) (err error) {
	mode := u.mode(h)
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&0o777)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := unix.Close(fd); err == nil {
			err = closeErr
		}
		if err != nil {
			_ = unix.Unlinkat(dir, name, 0)
		}
	}()
	if err := fill(fd); err != nil {
		return err
	}
	if u.o.Owner && !u.tree.owned(h.Uid, h.Gid) {
		if err := chown(fd, h); err != nil {
			return err
		}
	}
	if mode&^0o777 != 0 || mode&u.umask != 0 {
		if err := unix.Fchmod(fd, mode); err != nil {
			return err
		}
	}
	u.attributes(fd, h)
	return setTimeOf(fd, h.ModTime)
}

func write(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// sparse reports whether a file has holes, which the reader shows as zeros.
func sparse(h *tar.Header) bool {
	return h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" ||
		h.PAXRecords["GNU.sparse.size"] != ""
}

const pageSize = 4096

// sparse writes a file of this size and leaves out its pages of zeros.
func (u *unpacker) sparse(fd int, size int64, r io.Reader) error {
	if err := unix.Ftruncate(fd, size); err != nil {
		return err
	}
	var zero [pageSize]byte
	for at := int64(0); at < size; {
		buf := u.buf[:min(int64(len(u.buf)), size-at)]
		if _, err := io.ReadFull(r, buf); err != nil {
			return short(err)
		}
		for i := 0; i < len(buf); {
			from := i
			for i < len(buf) && !bytes.Equal(buf[i:min(i+pageSize, len(buf))], zero[:min(pageSize, len(buf)-i)]) {
				i += pageSize
			}
			if i = min(i, len(buf)); i > from {
				if _, err := unix.Seek(fd, at+int64(from), io.SeekStart); err != nil {
					return err
				}
				if err := write(fd, buf[from:i]); err != nil {
					return err
				}
				continue
			}
			i += pageSize
		}
		at += int64(len(buf))
	}
	return nil
}

// attributes sets the extended attributes that are wanted. One that the file system does not take is warned of.
func (u *unpacker) attributes(fd int, h *tar.Header) {
	if u.o.KeepXattr == nil {
		return
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || !u.o.KeepXattr(name) {
			continue
		}
		if err := setxattr(fd, name, value); err != nil {
			u.warnings.note("%.200q goes without its extended attribute %.100q: %v", h.Name, name, err)
		}
	}
}
