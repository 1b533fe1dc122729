package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PackOptions of Pack.
type PackOptions struct {
	// Name is what the member for the path is called: one component, or "." for members that are named from below it.
	Name string
	// Follow makes a symbolic link that the path names stand for what it points to. A path that ends in "/" or "/." does
	// so anyway.
	Follow bool
	// KeepXattr says which extended attributes are kept.
	KeepXattr func(name string) bool
	// Direct, when it is set, has large files read past the page cache. It is the memory in which the archive is made, DirectSize
	// bytes from the begin of a page on, and what is handed on is in it.
	Direct []byte
}

// Pack writes the archive of a file or of a directory with all below it to w, which gets up to 256 KiB at a time. Nothing
// is followed below the path, and file systems of the kernel (proc, sysfs and their like) that are mounted there are left
// empty. What cannot be read is left out and counted in the warnings; an error says that the archive is not whole.
func Pack(w io.Writer, name string, o PackOptions) (Warnings, error) {
	p := &packer{o: o, w: newWriter(w, o.Direct), links: map[inode]*linked{}, xattrs: make([]byte, 4096), scratch: make([]byte, 2*smallFile)}
	parts, err := split(o.Name)
	if err != nil || len(parts) > 1 {
		return p.warnings, fmt.Errorf("%q cannot be the name of an archive's member", o.Name)
	}
	if err := p.top(name); err != nil {
		return p.warnings, err
	}
	return p.warnings, p.w.close()
}

// Base returns the name that the member for a path has by default: its last component, or "." when that is none, as in "/"
// and "dir/.".
func Base(name string) string {
	if strings.HasSuffix(name, "/.") || strings.HasSuffix(name, "/..") {
		return "."
	}
	switch base := path.Base(name); base {
	case "/", "..":
		return "."
	default:
		return base
	}
}

type inode struct{ dev, ino uint64 }

// linked is a file that has more names than were met so far.
type linked struct {
	name string
	left uint64
}

type packer struct {
	o        PackOptions
	w        *writer
	links    map[inode]*linked
	xattrs   []byte // what listxattr(2) and getxattr(2) write to
	scratch  []byte
	warnings Warnings
}

func (p *packer) top(name string) error {
	flag := 0
	if !p.o.Follow && !strings.HasSuffix(name, "/") && !strings.HasSuffix(name, "/.") {
		flag = unix.AT_SYMLINK_NOFOLLOW
	}
	var st unix.Stat_t
	if err := unix.Fstatat(unix.AT_FDCWD, name, &st, flag); err != nil {
		return &os.PathError{Op: "copy", Path: name, Err: err}
	}
	dir, base := filepath.Split(filepath.Clean(name))
	if flag == 0 || base == "" || base == "." || base == ".." {
		// What the link points to, in the directory where that is.
		resolved, err := filepath.EvalSymlinks(name)
		if err != nil {
			return fmt.Errorf("copy %s: %w", name, err)
		}
		dir, base = filepath.Split(resolved)
	}
	if base == "" {
		base = "."
	}
	parent, err := open(unix.AT_FDCWD, filepath.Clean(dir), unix.O_DIRECTORY)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(parent)
	before := p.warnings
	if err := p.member(parent, base, p.o.Name, &st, true); err != nil {
		return err
	}
	if p.warnings.Count > before.Count && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errors.New(strings.Join(p.warnings.Text, "; ")) // there is nothing else in the archive
	}
	return nil
}

// member writes one member, and those below it. Its parent directory is open as dir.
func (p *packer) member(dir int, base, name string, st *unix.Stat_t, top bool) error {
	m := &member{
		name: name, mode: uint32(st.Mode) & 0o7777, uid: st.Uid, gid: st.Gid, modified: modified(st), //nolint:unconvert // not on darwin
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return p.file(dir, base, m)
	case unix.S_IFDIR:
		return p.directory(dir, base, m, top)
	case unix.S_IFLNK:
		target, err := readlink(dir, base)
		if err != nil {
			return p.leaveOut(name, err)
		}
		m.kind, m.link = typeSymlink, target
	case unix.S_IFIFO:
		m.kind = typeFIFO
	case unix.S_IFCHR, unix.S_IFBLK:
		m.kind = typeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			m.kind = typeBlock
		}
		m.major, m.minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)) //nolint:unconvert // not on darwin
	default:
		return p.leaveOut(name, errors.New("it is a socket"))
	}
	if first := p.link(m, st); first != "" {
		m.kind, m.link = typeLink, first
	}
	return p.w.header(m)
}

// leaveOut counts a member that cannot be read; one that has vanished since its directory was read is none.
func (p *packer) leaveOut(name string, err error) error {
	if !errors.Is(err, unix.ENOENT) {
		p.warnings.add("left out %q: %v", name, err)
	}
	return nil
}

// link returns the name of the member that is another link to the same file; none for the first.
func (p *packer) link(m *member, st *unix.Stat_t) string {
	if st.Nlink < 2 {
		return ""
	}
	id := inode{uint64(st.Dev), st.Ino} //nolint:unconvert // not on darwin
	l := p.links[id]
	if l == nil {
		p.links[id] = &linked{m.name, uint64(st.Nlink) - 1}
		return ""
	}
	if l.left--; l.left == 0 {
		delete(p.links, id)
	}
	return l.name
}

func (p *packer) directory(dir int, base string, m *member, top bool) error {
	fd, err := open(dir, base, unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return p.leaveOut(m.name, err)
	}
	f := os.NewFile(uintptr(fd), fdPath(fd))
	defer f.Close()
	m.kind = typeDir
	if m.xattrs, err = p.attributes(fd); err != nil {
		return p.leaveOut(m.name, err)
	}
	prefix := m.name + "/"
	m.name = prefix
	if err := p.w.header(m); err != nil {
		return err
	}
	if prefix == "./" {
		prefix = ""
	}
	if !top && ofKernel(fd) {
		return nil
	}
	for {
		entries, err := f.ReadDir(256)
		for _, e := range entries {
			if err := p.entry(fd, e, prefix+e.Name()); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return p.leaveOut(prefix, err)
		}
	}
}

func (p *packer) entry(dir int, e os.DirEntry, name string) error {
	if len(name) > maxName {
		return p.leaveOut(name[:100]+"…", unix.ENAMETOOLONG)
	}
	if e.Type().IsRegular() { // is looked at when it is open
		return p.file(dir, e.Name(), &member{name: name})
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return p.leaveOut(name, err)
	}
	return p.member(dir, e.Name(), name, &st, false)
}

// file writes a regular file.
func (p *packer) file(dir int, base string, m *member) error {
	fd, err := open(dir, base, unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return p.leaveOut(m.name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return p.leaveOut(m.name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return p.leaveOut(m.name, errors.New("it was replaced meanwhile"))
	}
	m.kind, m.mode, m.uid, m.gid, m.size = typeFile, uint32(st.Mode)&0o7777, st.Uid, st.Gid, st.Size
	m.modified = modified(&st)
	if first := p.link(m, &st); first != "" {
		m.kind, m.link, m.size = typeLink, first, 0
		return p.w.header(m)
	}
	if m.xattrs, err = p.attributes(fd); err != nil {
		return p.leaveOut(m.name, err)
	}
	if st.Blocks*512 < st.Size {
		if m.data, err = extents(fd, st.Size); err != nil {
			return p.leaveOut(m.name, err)
		}
	}
	if m.data == nil && m.size <= smallFile {
		return p.small(fd, m)
	}
	direct := p.o.Direct != nil && m.size >= directFile && setDirect(fd, true)
	if err := p.w.header(m); err != nil {
		return err
	}
	data := m.data
	if data == nil {
		data = []extent{{0, m.size}}
	}
	total := int64(0)
	for _, e := range data {
		total += e.length
		if err := p.content(fd, m.name, e, direct); err != nil {
			return err
		}
	}
	return p.w.pad(total)
}

// smallFile is the size, in bytes, up to which a file is read before its header is written, so that the header is right
// whatever happens to the file meanwhile, and for files of the kernel that do not know their size.
const smallFile = 64 << 10

func (p *packer) small(fd int, m *member) error {
	n := 0
	for {
		k, err := read(fd, p.scratch[n:])
		if err != nil {
			return p.leaveOut(m.name, err)
		}
		n += k
		if k == 0 || int64(n) == m.size {
			break
		}
		if n == len(p.scratch) {
			p.warnings.add("%q became longer while it was read", m.name)
			break
		}
	}
	m.size = int64(n)
	if err := p.w.header(m); err != nil {
		return err
	}
	if err := p.w.write(p.scratch[:n]); err != nil {
		return err
	}
	return p.w.pad(m.size)
}

// content writes a part of a file. What the file has lost since its size was asked for becomes zeros.
func (p *packer) content(fd int, name string, e extent, direct bool) error {
	for offset, left := e.offset, e.length; left > 0; {
		room, err := p.w.space(int(min(left, smallFile)))
		if err != nil {
			return err
		}
		want := min(int64(len(room)), left)
		if direct { // up to the end of a block, for which there is room; all before in the archive is whole blocks
			want = min(int64(len(room)), (left+blockSize-1)&^(blockSize-1))
		}
		n, err := unix.Pread(fd, room[:want], offset)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EINVAL) && direct { // a hole ends within a block, or the file system asks for more
			direct = !setDirect(fd, false)
			continue
		}
		n = int(min(int64(n), left)) // the file may have grown
		if err != nil {
			p.warnings.add("%q is not whole: %v", name, err)
			return p.w.zeros(left)
		}
		if n == 0 {
			p.warnings.add("%q became shorter while it was read", name)
			return p.w.zeros(left)
		}
		p.w.advance(n)
		offset, left = offset+int64(n), left-int64(n)
	}
	return nil
}

func modified(st *unix.Stat_t) time.Time { return time.Unix(st.Mtim.Unix()) }

// open opens without becoming a process's terminal, for reading.
func open(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

func read(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, maxName+1)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
