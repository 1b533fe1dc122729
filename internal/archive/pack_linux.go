package archive

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// attributes returns the extended attributes of an open file that are kept.
func (p *packer) attributes(fd int) ([]Xattr, error) {
	if p.o.KeepXattr == nil {
		return nil, nil
	}
	list, err := p.ask(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
	if errors.Is(err, unix.ENOTSUP) || err == nil && len(list) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []Xattr
	for _, name := range strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if !p.o.KeepXattr(name) || strings.Contains(name, "=") { // a pax record's key has no equals sign
			continue
		}
		value, err := p.ask(func(b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, Xattr{name, string(value)})
	}
	return found, nil
}

// ask calls a system call with a buffer that is large enough. What it returns is valid until the next call.
func (p *packer) ask(call func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := call(p.xattrs)
		if errors.Is(err, unix.ERANGE) && len(p.xattrs) < 128<<10 { // no list or value has more than 64 KiB: xattr(7)
			p.xattrs = slices.Grow(p.xattrs, 2*len(p.xattrs))[:2*len(p.xattrs)]
			continue
		}
		return p.xattrs[:max(n, 0)], err
	}
}

// maxExtents bounds a sparse member's map: readers take 1 MiB of it. A file in more pieces is written without its further
// holes.
const maxExtents = 16 << 10

// extents returns where a file has data, nil when it has no hole. The last extent ends where the file does.
func extents(fd int, size int64) (data []extent, err error) {
	for at := int64(0); at < size; {
		from, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if errors.Is(err, unix.EINVAL) { // the file system does not know of holes
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		to, err := unix.Seek(fd, from, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		if len(data) == maxExtents {
			to = size
		}
		to = min(to, size)
		if from >= to {
			break
		}
		data = append(data, extent{from, to - from})
		at = to
	}
	if len(data) == 1 && data[0] == (extent{0, size}) {
		return nil, nil
	}
	if n := len(data); n == 0 || data[n-1].offset+data[n-1].length < size {
		data = append(data, extent{size, 0})
	}
	return data, nil
}

// kernelFS are the file systems whose files the kernel makes up: linux/magic.h.
var kernelFS = []int64{
	unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
	unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.PSTOREFS_MAGIC, unix.BPF_FS_MAGIC, unix.EFIVARFS_MAGIC,
}

// ofKernel reports whether an open directory is in such a file system.
func ofKernel(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && slices.Contains(kernelFS, int64(st.Type))
}
