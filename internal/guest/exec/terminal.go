package exec

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// hangUpGrace is how long a command has to end after it was hung up on.
const hangUpGrace = 2 * time.Second

// terminalRest bounds what is taken of a terminal's output after its command's end: more than the kernel keeps of it.
const terminalRest = 128 << 10

// openTerminal makes a pseudo terminal, pty(7), which belongs to a user.
func openTerminal(stdin bool, size *guestv1.TerminalSize, uid uint32) (_ *pipes, err error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, os.NewSyscallError("unlock the terminal", err)
	}
	// Not by its name in /dev/pts, where anything may be.
	child, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, os.NewSyscallError("open the terminal's other side", errno)
	}
	p := &pipes{child: [3]uintptr{child, child, child}, terminal: true}
	defer func() {
		if err != nil {
			p.closeChild()
			p.closeParent()
		}
	}()
	if os.Geteuid() == 0 { // else only in tests
		if err := unix.Fchown(int(child), int(uid), -1); err != nil {
			return nil, os.NewSyscallError("give the terminal to the user", err)
		}
	}
	if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, winsize(size)); err != nil {
		return nil, os.NewSyscallError("set the terminal's size", err)
	}
	if err := asUTF8(int(child)); err != nil {
		return nil, err
	}
	if p.stdout, err = oursToo(master, "terminal"); err != nil {
		return nil, err
	}
	if stdin {
		if p.stdin, err = oursToo(master, "terminal"); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// oursToo is ours for a second number of a file.
func oursToo(fd int, name string) (*os.File, error) {
	second, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return ours(second, name)
}

// asUTF8 has the terminal erase whole characters: IUTF8 in termios(3).
func asUTF8(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		t.Iflag |= unix.IUTF8
		err = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	return os.NewSyscallError("set the terminal's mode", err)
}

func winsize(s *guestv1.TerminalSize) *unix.Winsize {
	return &unix.Winsize{Row: uint16(min(s.GetRows(), 1<<16-1)), Col: uint16(min(s.GetCols(), 1<<16-1))}
}

// terminalDefaults adds what programs on a terminal look for, where env does not say it: a kind of terminal that every
// system knows, and that it takes UTF-8.
func terminalDefaults(env map[string]string) {
	if env["TERM"] == "" {
		env["TERM"] = "xterm"
	}
	if env["LC_ALL"] == "" && env["LC_CTYPE"] == "" && env["LANG"] == "" {
		env["LC_CTYPE"] = "C.UTF-8"
	}
}

// resize gives the terminal another size, which the programs in it are told by SIGWINCH. With the size that it has they are
// told as well, and draw anew.
func (c *Command) resize(size *guestv1.TerminalSize) {
	if !c.pipes.terminal {
		return
	}
	raw, err := c.pipes.stdout.SyscallConn()
	if err != nil {
		return
	}
	// When one of these fails, the command has ended.
	_ = raw.Control(func(fd uintptr) {
		old, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ)
		if err != nil {
			return
		}
		if new := winsize(size); old.Row != new.Row || old.Col != new.Col {
			_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, new)
		} else if group, err := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP); err == nil && group > 1 {
			_ = unix.Kill(-group, unix.SIGWINCH)
		}
	})
}

// cutOff ends a command that nobody listens to any more.
func (c *Command) cutOff() {
	if !c.pipes.terminal {
		c.kill()
		return
	}
	// A shell passes SIGHUP on to its jobs, and an editor saves what it has.
	_ = c.process.SignalGroup(unix.SIGHUP)
	_ = c.process.SignalGroup(unix.SIGCONT)
	timer := time.AfterFunc(hangUpGrace, c.kill)
	go func() {
		<-c.process.Done()
		timer.Stop()
	}()
}

// endOfFile is what to type at a terminal so that its reader finds an end: twice where a line has been begun, as the first
// one ends that. Programs that take keys themselves have no such character.
func endOfFile(terminal *os.File, lineBegun bool) []byte {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return nil
	}
	var keys []byte
	_ = raw.Control(func(fd uintptr) {
		t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		if err != nil || t.Lflag&unix.ICANON == 0 {
			return
		}
		keys = append(keys, t.Cc[unix.VEOF])
		if lineBegun {
			keys = append(keys, t.Cc[unix.VEOF])
		}
	})
	return keys
}
