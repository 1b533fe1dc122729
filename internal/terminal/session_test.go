package terminal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// helperVariable makes this test's binary the program whose terminal is looked at.
const helperVariable = "TERMINAL_TEST_HELPER"

func TestMain(m *testing.M) {
	if what := os.Getenv(helperVariable); what != "" {
		os.Exit(helper(what))
	}
	os.Exit(m.Run())
}

// helper puts its terminal in raw mode, switches to the alternate screen, and obeys the lines that are typed. What it has to
// say goes to stderr.
func helper(what string) int {
	var ctx context.Context
	var s *Session
	var err error
	if what == "playback" {
		s, ctx, err = Playback(context.Background(), os.Stdin, os.Stdout)
	} else {
		s, ctx, err = Raw(context.Background(), os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer s.Close()
	out := s.Writer(os.Stdout)
	if _, err := io.WriteString(out, "\x1b[?1049h"); err != nil {
		return 2
	}
	fmt.Fprintln(os.Stderr, "raw")
	lines := make(chan string)
	go func() {
		r := bufio.NewReader(os.Stdin)
		for {
			line, err := r.ReadString('\r')
			if err != nil {
				return
			}
			lines <- strings.TrimSuffix(line, "\r")
		}
	}()
	for {
		select {
		case <-ctx.Done():
			var sig *SignalError
			if !errors.As(context.Cause(ctx), &sig) {
				return 3
			}
			_ = s.Reset()
			return 128 + int(sig.Signal)
		case size := <-s.Sizes():
			fmt.Fprintf(os.Stderr, "size %dx%d\n", size.Cols, size.Rows)
		case line := <-lines:
			switch line {
			case "end":
				return 0
			case "panic":
				panic("as told")
			default:
				fmt.Fprintf(os.Stderr, "typed %q\n", line)
				if _, err := fmt.Fprintf(out, "<%s>", line); err != nil {
					fmt.Fprintln(os.Stderr, "write:", err)
					return 4
				}
			}
		}
	}
}

// run is a helper on a terminal.
type run struct {
	t      *testing.T
	master *os.File
	tty    *os.File
	cmd    *exec.Cmd
	says   *bufio.Reader // its stderr
	before unix.Termios

	mu     sync.Mutex
	screen strings.Builder
	copied chan struct{}
}

func start(t *testing.T, what string, stdout *os.File) *run {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Skip("no pseudo terminal: ", err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	r := &run{t: t, master: master, tty: tty, copied: make(chan struct{})}
	r.before = r.termios()
	r.cmd = exec.Command(os.Args[0])
	r.cmd.Env = append(os.Environ(), helperVariable+"="+what)
	r.cmd.Stdin, r.cmd.Stdout = tty, tty
	if stdout != nil {
		r.cmd.Stdout = stdout
	}
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.says = bufio.NewReader(stderr)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		tty.Close()
		master.Close()
		<-r.copied
	})
	go func() {
		defer close(r.copied)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			r.mu.Lock()
			r.screen.Write(buf[:n])
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	r.expect("raw")
	return r
}

func (r *run) termios() unix.Termios {
	r.t.Helper()
	t, err := unix.IoctlGetTermios(int(r.tty.Fd()), getTermios)
	if err != nil {
		r.t.Fatal(err)
	}
	return *t
}

func (r *run) isRaw() bool { return r.termios().Lflag&unix.ICANON == 0 }

func (r *run) expect(line string) {
	r.t.Helper()
	got, err := r.says.ReadString('\n')
	if strings.TrimSuffix(got, "\n") != line {
		r.t.Fatalf("it says %q, %v; want %q", got, err, line)
	}
}

func (r *run) send(sig syscall.Signal) {
	r.t.Helper()
	if err := syscall.Kill(r.cmd.Process.Pid, sig); err != nil {
		r.t.Fatal(err)
	}
}

// ends waits for the end of the helper; the terminal must be as it was.
func (r *run) ends() syscall.WaitStatus {
	r.t.Helper()
	_, _ = io.Copy(io.Discard, r.says)
	_ = r.cmd.Wait()
	if after := r.termios(); after != r.before {
		r.t.Errorf("the terminal's mode is %+v after the end, and was %+v", after, r.before)
	}
	return r.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

func TestSessionEnds(t *testing.T) {
	for _, what := range []string{"raw", "playback"} {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGABRT} {
			t.Run(what+" "+sig.String(), func(t *testing.T) {
				r := start(t, what, nil)
				if !r.isRaw() {
					t.Error("the terminal is not in raw mode")
				}
				r.send(sig)
				if ws := r.ends(); ws.ExitStatus() != 128+int(sig) {
					t.Errorf("it ended with %d", ws)
				}
				r.tty.Close() // the last one: what was written to it is read to its end
				<-r.copied
				if got := r.screen.String(); got != "\x1b[?1049h\x1b[?1049l" {
					t.Errorf("on the terminal: %q", got)
				}
			})
		}
	}
	for line, code := range map[string]int{"end": 0, "panic": 2} {
		t.Run(line, func(t *testing.T) {
			r := start(t, "raw", nil)
			fmt.Fprintf(r.master, "%s\r", line)
			if ws := r.ends(); ws.ExitStatus() != code {
				t.Errorf("it ended with %d", ws)
			}
		})
	}
	t.Run("closed pipe", func(t *testing.T) {
		rd, wr, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r := start(t, "raw", wr)
		wr.Close()
		rd.Close()
		fmt.Fprint(r.master, "x\r")
		r.expect(`typed "x"`)
		if ws := r.ends(); ws.ExitStatus() != 4 {
			t.Errorf("it ended with %d", ws)
		}
	})
}

// Control characters are typed, not acted upon, in raw mode.
func TestRawTakesKeys(t *testing.T) {
	r := start(t, "raw", nil)
	fmt.Fprint(r.master, "\x03\x1a\x1c\x04\x13\x11\x16é\r")
	r.expect(`typed "\x03\x1a\x1c\x04\x13\x11\x16é"`)
	r = start(t, "playback", nil)
	fmt.Fprint(r.master, "\x03")
	if ws := r.ends(); ws.ExitStatus() != 130 {
		t.Errorf("it ended with %d", ws)
	}
}

func TestResize(t *testing.T) {
	r := start(t, "raw", nil)
	if err := pty.Setsize(r.master, &pty.Winsize{Rows: 50, Cols: 132}); err != nil {
		t.Fatal(err)
	}
	r.expect("size 132x50")
}

// Stopped, by a signal that it sees coming and by one that it does not, it leaves a sane terminal; it takes it again later,
// and has the program draw anew.
func TestStopAndContinue(t *testing.T) {
	r := start(t, "raw", nil)
	for range 2 {
		r.send(syscall.SIGTSTP)
		r.stopped()
		if after := r.termios(); after != r.before {
			t.Errorf("the terminal's mode is %+v while it is stopped, and was %+v", after, r.before)
		}
		r.send(syscall.SIGCONT)
		r.expect("size 80x24")
		if !r.isRaw() {
			t.Error("it is not in raw mode after SIGCONT")
		}
	}
	r.send(syscall.SIGSTOP)
	r.stopped()
	restored := r.before
	if err := unix.IoctlSetTermios(int(r.tty.Fd()), setTermios, &restored); err != nil { // as shells do
		t.Fatal(err)
	}
	r.send(syscall.SIGCONT)
	r.expect("size 80x24")
	if !r.isRaw() {
		t.Error("it is not in raw mode after SIGSTOP and SIGCONT")
	}
	// SIGTERM while it is stopped comes into effect with SIGCONT.
	r.send(syscall.SIGTSTP)
	r.stopped()
	r.send(syscall.SIGTERM)
	r.send(syscall.SIGCONT)
	if ws := r.ends(); ws.ExitStatus() != 143 {
		t.Errorf("it ended with %d", ws)
	}
	r.tty.Close() // the last one: what was written to it is read to its end
	<-r.copied
	out := r.screen.String()
	if !strings.HasPrefix(out, strings.Repeat("\x1b[?1049h\x1b[?1049l", 2)) || !strings.HasSuffix(out, "\x1b[?1049l") {
		t.Errorf("on the terminal: %q", out)
	}
}

// stopped waits until the helper is stopped.
func (r *run) stopped() {
	r.t.Helper()
	for {
		var ws syscall.WaitStatus
		_, err := syscall.Wait4(r.cmd.Process.Pid, &ws, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || !ws.Stopped() {
			r.t.Fatalf("it has ended: %v, %x", err, ws)
		}
		return
	}
}
