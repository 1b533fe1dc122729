package exec

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipes are a command's standard streams: the child's ends by number, and ours.
type pipes struct {
	child    [3]uintptr
	stdin    *os.File // nil for a command without stdin
	stdout   *os.File
	stderr   *os.File // nil for a command with a terminal
	terminal bool     // the child's ends are one terminal, and ours its other side
}

// openPipes makes the pipes. Only our ends are non-blocking: the child's programs do not expect theirs to be.
func openPipes(stdin bool) (_ *pipes, err error) {
	p := &pipes{}
	for i := range p.child {
		p.child[i] = ^uintptr(0)
	}
	defer func() {
		if err != nil {
			p.closeChild()
			p.closeParent()
		}
	}()
	if stdin {
		r, w, err := newPipe()
		if err != nil {
			return nil, err
		}
		p.child[0] = uintptr(r)
		if p.stdin, err = ours(w, "stdin"); err != nil {
			return nil, err
		}
	} else {
		null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
		}
		p.child[0] = uintptr(null)
	}
	for i, f := range []**os.File{&p.stdout, &p.stderr} {
		r, w, err := newPipe()
		if err != nil {
			return nil, err
		}
		p.child[1+i] = uintptr(w)
		if *f, err = ours(r, "output"); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func newPipe() (r, w int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, os.NewSyscallError("pipe2", err)
	}
	return fds[0], fds[1], nil
}

// ours puts fd under the poller. A number that a child could use is moved above those, but for the first ones: the kernel copies
// as many numbers at each fork as are in use.
func ours(fd int, name string) (_ *os.File, err error) {
	if fd >= lowFiles && fd < childFiles {
		low := fd
		defer unix.Close(low)
		if fd, err = unix.FcntlInt(uintptr(low), unix.F_DUPFD_CLOEXEC, childFiles); err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (p *pipes) closeChild() {
	if p.terminal { // one file under three numbers
		p.child[1], p.child[2] = ^uintptr(0), ^uintptr(0)
	}
	for i, fd := range p.child {
		if fd != ^uintptr(0) {
			_ = unix.Close(int(fd))
			p.child[i] = ^uintptr(0)
		}
	}
}

func (p *pipes) closeParent() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}
