package vm

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// screen is a terminal of this host with agentkernel on it.
type screen struct {
	t      *testing.T
	master *os.File
	tty    *os.File
	before unix.Termios
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
	copied sync.WaitGroup

	mu      sync.Mutex
	model   *vt.Emulator
	changed chan struct{} // closed and made anew when something was written
}

// on starts agentkernel on a terminal of 80 by 24.
func (h *home) on(args ...string) *screen {
	h.t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		h.t.Skip("no pseudo terminal: ", err)
	}
	s := &screen{t: h.t, master: master, tty: tty, ended: make(chan struct{}), model: vt.NewEmulator(80, 24), changed: make(chan struct{})}
	s.resize(80, 24)
	s.before = s.termios()
	s.cmd = h.command(args...)
	s.cmd.Env = append(s.cmd.Env, "TERM=xterm-256color")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	s.copied.Go(s.show)
	// The model's answers to what programs ask are dropped: one that comes late is a key to the next program.
	s.copied.Go(func() { _, _ = io.Copy(io.Discard, s.model) })
	go func() {
		_ = s.cmd.Wait()
		close(s.ended)
	}()
	h.t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.ended
		tty.Close()
		master.Close()
		s.mu.Lock()
		_ = s.model.Close()
		s.mu.Unlock()
		s.copied.Wait()
	})
	return s
}

// show copies what is written to the terminal to its model.
func (s *screen) show() {
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		if err != nil {
			return
		}
		s.mu.Lock()
		_, _ = s.model.Write(buf[:n])
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
	}
}

func (s *screen) termios() unix.Termios {
	s.t.Helper()
	t, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return *t
}

func (s *screen) resize(cols, rows int) {
	s.t.Helper()
	s.mu.Lock()
	s.model.Resize(cols, rows)
	s.mu.Unlock()
	if err := pty.Setsize(s.master, &pty.Winsize{Rows: uint16(rows), Cols: uint16(cols)}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screen) press(keys string) {
	s.t.Helper()
	if _, err := io.WriteString(s.master, keys); err != nil {
		s.t.Fatal(err)
	}
}

// lines are what the terminal shows, without blanks at the ends of lines and without empty lines at the end.
func (s *screen) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := strings.Split(s.model.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \r")
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// waitFor waits until the terminal's lines are as wanted.
func (s *screen) waitFor(what string, ok func(lines []string) bool) {
	s.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ended := s.ended
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		lines := s.lines()
		switch {
		case ok(lines):
			return
		case ended == nil:
			s.t.Fatalf("agentkernel ended without %s. The terminal shows:\n%s", what, strings.Join(lines, "\n"))
		}
		select {
		case <-changed:
		case <-ended:
			ended = nil // a last look
		case <-deadline.C:
			s.t.Fatalf("waited %v for %s. The terminal shows:\n%s", patience, what, strings.Join(lines, "\n"))
		}
	}
}

// shows waits for a line that is as this one.
func (s *screen) shows(line string) {
	s.t.Helper()
	s.waitFor("the line "+line, func(lines []string) bool {
		for _, l := range lines {
			if l == line {
				return true
			}
		}
		return false
	})
}

// last waits until the last line begins so, which a prompt or an editor's status does.
func (s *screen) last(prefix string) {
	s.t.Helper()
	s.waitFor("a last line "+prefix, func(lines []string) bool {
		return len(lines) > 0 && strings.HasPrefix(lines[len(lines)-1], prefix)
	})
}

// exits waits for the end of agentkernel, and looks whether it leaves the terminal as it was.
func (s *screen) exits(code int) {
	s.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	select {
	case <-s.ended:
	case <-deadline.C:
		s.t.Fatalf("it still runs after %v", patience)
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit code %d, want %d. The terminal shows:\n%s", got, code, strings.Join(s.lines(), "\n"))
	}
	if after := s.termios(); after != s.before {
		s.t.Errorf("the terminal's mode is %+v, and was %+v", after, s.before)
	}
	s.drain()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.model.IsAltScreen() || s.model.CursorHidden() {
		s.t.Errorf("it leaves the terminal with the alternate screen (%v) or a hidden cursor (%v)", s.model.IsAltScreen(), s.model.CursorHidden())
	}
}

// drain waits until all that was written to the terminal is in the model: a mark, written last, comes out last.
func (s *screen) drain() {
	s.t.Helper()
	const mark = "\x1b]2;drained\x07"
	seen := make(chan struct{})
	s.mu.Lock()
	s.model.SetCallbacks(vt.Callbacks{Title: func(title string) {
		if title == "drained" {
			close(seen)
		}
	}})
	s.mu.Unlock()
	if _, err := s.tty.WriteString(mark); err != nil && !errors.Is(err, unix.EIO) {
		s.t.Fatal(err)
	}
	<-seen
}
