package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// errNoReflink is returned by reflink when the two files cannot share blocks.
var errNoReflink = errors.New("no reflink here")

// Copy makes dst a copy of the regular file src, with these permissions. Blocks are shared where the host's file system can
// do that; else holes stay holes. dst is replaced at once, when all of it is on the host's disk; when anything fails,
// nothing is left behind and dst is as it was.
func Copy(ctx context.Context, dst, src string, perm fs.FileMode) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer in.Close()
	dir := filepath.Dir(dst)
	out, err := os.CreateTemp(dir, ".copy-*")
	if err != nil {
		return NoSpace(dir, fmt.Errorf("copy %s: %w", src, err))
	}
	defer func() {
		if err != nil {
			_ = out.Close()
			_ = os.Remove(out.Name())
		}
	}()
	if err := CopyContents(ctx, out, in); err != nil {
		return fmt.Errorf("copy %s to %s: %w", src, dst, err)
	}
	err = errors.Join(out.Chmod(perm), out.Sync(), out.Close())
	if err != nil {
		return NoSpace(dir, fmt.Errorf("copy %s to %s: %w", src, dst, err))
	}
	if err := os.Rename(out.Name(), dst); err != nil {
		return fmt.Errorf("copy %s: %w", src, err)
	}
	return nil
}

// CopyContents makes the empty file out a copy of in, as Copy does. A change of in's size while it is read is an error.
func CopyContents(ctx context.Context, out, in *os.File) error {
	size, err := sizeOf(in)
	if err != nil {
		return err
	}
	if err := reflink(out, in); err == nil {
		return nil
	} else if !errors.Is(err, errNoReflink) {
		return NoSpace(filepath.Dir(out.Name()), err)
	}
	return copyData(ctx, out, in, size)
}

// CopyData makes the empty file out a copy of in, and leaves out its blocks of zeros, which CopyContents keeps where they share
// space. A change of in's size while it is read is an error.
func CopyData(ctx context.Context, out, in *os.File) error {
	size, err := sizeOf(in)
	if err != nil {
		return err
	}
	return copyData(ctx, out, in, size)
}

func sizeOf(in *os.File) (int64, error) {
	info, err := in.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is not a regular file", in.Name())
	}
	return info.Size(), nil
}

func copyData(ctx context.Context, out, in *os.File, size int64) error {
	if err := out.Truncate(size); err != nil {
		return NoSpace(filepath.Dir(out.Name()), err)
	}
	buf := make([]byte, 256<<10)
	for pos := int64(0); pos < size; {
		start, end, err := NextData(in, pos, size)
		if err != nil {
			return err
		}
		for pos = start; pos < end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := in.ReadAt(buf[:min(int64(len(buf)), end-pos)], pos)
			if n == 0 && errors.Is(err, io.EOF) {
				return fmt.Errorf("%s became shorter while it was read", in.Name())
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if err := writeSparse(out, buf[:n], pos); err != nil {
				return NoSpace(filepath.Dir(out.Name()), err)
			}
			pos += int64(n)
		}
	}
	return nil
}

// NextData returns the next part of f, at or after pos, that may hold anything but zeros: lseek(2), SEEK_DATA. It is empty
// and at size when there is none.
func NextData(f *os.File, pos, size int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), pos, seekData)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return pos, size, nil // the file system has no notion of holes
	case err != nil:
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	end, err = unix.Seek(int(f.Fd()), start, seekHole)
	if err != nil {
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	return min(start, size), min(end, size), nil
}

// hole is the unit in which zeros are left out.
const hole = 4096

var zeros [hole]byte

// writeSparse writes b at off of a new file but for its blocks of zeros.
func writeSparse(f *os.File, b []byte, off int64) error {
	start := 0 // of what is to be written
	flush := func(end int) error {
		if start == end {
			return nil
		}
		_, err := f.WriteAt(b[start:end], off+int64(start))
		return err
	}
	for i := 0; i < len(b); i += hole {
		end := min(i+hole, len(b))
		if string(b[i:end]) != string(zeros[:end-i]) {
			continue
		}
		if err := flush(i); err != nil {
			return err
		}
		start = end
	}
	return flush(len(b))
}

// AllocatedBytes is how much of the host's disk a file takes, which for a sparse one is less than its size.
func AllocatedBytes(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("measure a file: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("measure %s: the host does not tell", path)
	}
	return st.Blocks * 512, nil // stat(2): always in units of 512 bytes
}

// NoSpace turns an error that a full disk or a quota caused into a *sandbox.Error of kind Unavailable that names the
// directory. Any other error, one that names a directory already, and nil are returned as they are.
func NoSpace(dir string, err error) error {
	var named *sandbox.Error
	if errors.As(err, &named) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return full(dir, err)
	}
	return err
}

func full(dir string, err error) error {
	return &sandbox.Error{
		Kind:    sandbox.Unavailable,
		Message: fmt.Sprintf("the host's disk is full: no space left in %s", dir),
		Hint:    "make room, remove sandboxes (agentkernel rm), or put files elsewhere with AGENTKERNEL_HOME",
		Err:     err,
	}
}
