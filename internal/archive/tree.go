package archive

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tree is the target of an Unpack. The directories on the way to the last member are open; each was opened from the one
// before it and without following a link. A directory gets its mode and time when it is left.
type tree struct {
	root int
	path []branch
	// done has the times of directories that were left, for the case that a later member is put into one. It is bounded:
	// archives that come back to directories after so many others are none that a program makes.
	done     map[inode]time.Time
	uid, gid int // what this process makes belongs to
}

func newTree(root int) tree {
	return tree{root: root, done: map[inode]time.Time{}, uid: os.Geteuid(), gid: os.Getegid()}
}

// owned reports whether what is made in the current directory belongs to uid and gid at once.
func (t *tree) owned(uid, gid int) bool {
	if n := len(t.path); n == 0 || t.path[n-1].setgid {
		return false // the group is the directory's, or may be
	}
	return uid == t.uid && gid == t.gid
}

// maxDone bounds tree.done.
const maxDone = 64 << 10

// branch is an open directory.
type branch struct {
	name   string
	fd     int
	id     inode
	mode   uint32 // to be given when it is left
	chmod  bool   // whether it has another mode meanwhile
	time   time.Time
	settle bool // whether it gets time when it is left
	setgid bool
	uid    uint32
}

// enter makes a directory below the target the current one, makes what is missing on the way, and returns its descriptor,
// which stays valid until the next call.
func (t *tree) enter(parts []string) (int, error) {
	common := 0
	for common < len(parts) && common < len(t.path) && t.path[common].name == parts[common] {
		common++
	}
	if err := t.leave(common); err != nil {
		return -1, err
	}
	for _, name := range parts[common:] {
		err := t.push(name)
		if errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(t.current(), name, 0o755); err == nil {
				err = t.push(name)
			}
		}
		if err != nil {
			return -1, t.explain(append(t.names(), name), err)
		}
	}
	return t.current(), nil
}

func (t *tree) names() (names []string) {
	for _, b := range t.path {
		names = append(names, b.name)
	}
	return names
}

func (t *tree) explain(parts []string, err error) error {
	name := strings.Join(parts, "/")
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return &ConflictError{name, "it is no directory"}
	}
	return fmt.Errorf("open %.200q: %w", name, err)
}

// current is the descriptor of the current directory.
func (t *tree) current() int {
	if n := len(t.path); n > 0 {
		return t.path[n-1].fd
	}
	return t.root
}

// push opens a directory in the current one and makes it the current one.
func (t *tree) push(name string) error {
	fd, err := open(t.current(), name, unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return err
	}
	b := branch{
		name: name, fd: fd, id: inode{uint64(st.Dev), st.Ino}, mode: uint32(st.Mode) & 0o7777,
		setgid: st.Mode&unix.S_ISGID != 0, uid: st.Uid,
	}
	b.time, b.settle = t.done[b.id]
	if err := b.open(); err != nil {
		_ = unix.Close(fd)
		return err
	}
	t.path = append(t.path, b)
	return nil
}

// open lets the owner write to a directory that it made read-only.
func (b *branch) open() error {
	if b.mode&0o700 == 0o700 || int(b.uid) != os.Geteuid() {
		return nil
	}
	b.chmod = true
	return unix.Fchmod(b.fd, b.mode|0o700)
}

// directory makes a directory, or takes the one that is there, and makes it the current one. It gets mode and time when it is left.
func (t *tree) directory(parts []string, mode uint32, modified time.Time) (int, error) {
	name := parts[len(parts)-1]
	err := unix.Mkdirat(t.current(), name, mode&0o777|0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, err
	}
	if err := t.push(name); err != nil {
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return -1, &ConflictError{strings.Join(parts, "/"), "a directory cannot take the place of what is no directory"}
		}
		return -1, err
	}
	b := &t.path[len(t.path)-1]
	b.chmod = b.chmod || b.mode != mode
	b.mode, b.time, b.settle = mode, modified, true
	return b.fd, nil
}

// leave closes the open directories below the first n, the deepest first, and gives them their modes and times.
func (t *tree) leave(n int) (err error) {
	for len(t.path) > n {
		b := t.path[len(t.path)-1]
		t.path = t.path[:len(t.path)-1]
		if b.chmod {
			err = errors.Join(err, unix.Fchmod(b.fd, b.mode))
		}
		if b.settle {
			err = errors.Join(err, setTimeOf(b.fd, b.time))
			if len(t.done) < maxDone {
				t.done[b.id] = b.time
			}
		}
		err = errors.Join(err, unix.Close(b.fd))
		if err != nil {
			err = fmt.Errorf("finish the directory %.200q: %w", strings.Join(append(t.names(), b.name), "/"), err)
		}
	}
	return err
}

// find opens a directory below the target without making it the current one.
func (t *tree) find(parts []string) (int, error) {
	fd, err := open(t.root, ".", unix.O_DIRECTORY)
	for _, name := range parts {
		if err != nil {
			break
		}
		parent := fd
		fd, err = open(parent, name, unix.O_DIRECTORY|unix.O_NOFOLLOW)
		_ = unix.Close(parent)
	}
	return fd, err
}

// temporary returns a name for what takes another's place when it is whole.
func temporary() string { return ".agentkernel-" + rand.Text() }

// replace has something made by its name when there is none, and else by a temporary one, which then takes its place.
func (t *tree) replace(dir int, base, member string, create func(name string) error) error {
	err := create(base)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := t.mayReplace(dir, base, member); err != nil {
		return err
	}
	temp := temporary()
	if err := create(temp); err != nil {
		return err
	}
	if err := unix.Renameat(dir, temp, dir, base); err != nil {
		_ = unix.Unlinkat(dir, temp, 0)
		return err
	}
	return nil
}

// mayReplace returns a ConflictError when there is a directory by this name.
func (t *tree) mayReplace(dir int, base, member string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return &ConflictError{member, "what is no directory cannot take the place of a directory"}
	}
	return err
}
