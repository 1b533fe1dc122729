package vm

import (
	"bufio"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

// begun starts a command whose first line of output is "begun", and returns when it has come.
func (h *home) begun(args ...string) (wait func() (code int, stderr string), signal func(os.Signal)) {
	h.t.Helper()
	cmd := h.command(args...)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "begun\n" {
		h.t.Fatalf("%q, %v; stderr %s", line, err, errOut.String())
	}
	return func() (int, string) {
			_, _ = io.Copy(io.Discard, r)
			_ = cmd.Wait()
			return cmd.ProcessState.ExitCode(), errOut.String()
		}, func(s os.Signal) {
			if err := cmd.Process.Signal(s); err != nil {
				h.t.Error(err)
			}
		}
}

func TestCtrlC(t *testing.T) {
	h := newHome(t)
	h.started("a")
	t.Run("the command gets it", func(t *testing.T) {
		wait, signal := h.begun("exec", "a", "sh", "-c", `trap 'echo caught >&2; exit 9' INT; echo begun; while :; do sleep 0.1; done`)
		signal(os.Interrupt)
		if code, errOut := wait(); code != 9 || errOut != "caught\n" {
			t.Errorf("exit code %d, stderr %q", code, errOut)
		}
	})
	t.Run("it ends the command", func(t *testing.T) {
		wait, signal := h.begun("exec", "a", "sh", "-c", "echo begun; sleep 1111")
		signal(os.Interrupt)
		if code, _ := wait(); code != 130 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("twice kills", func(t *testing.T) {
		wait, signal := h.begun("exec", "a", "sh", "-c", `trap '' INT TERM; echo begun; while :; do sleep 1112; done`)
		signal(os.Interrupt)
		signal(syscall.SIGTERM)
		if code, _ := wait(); code != 125 && code != 130 {
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("the client is killed", func(t *testing.T) {
		wait, signal := h.begun("exec", "-i", "a", "sh", "-c", "echo begun; sleep 1113")
		signal(os.Kill)
		wait()
	})
	h.waitFor("the end of the commands", func() bool { return h.sh("a", "ps | grep -c '[s]leep 111'; true") == "0" })
}

func TestCtrlCOfRunRemovesTheSandbox(t *testing.T) {
	h := newHome(t)
	wait, signal := h.begun("run", "--memory", "128M", "--", "sh", "-c", "echo begun; sleep 1000")
	signal(os.Interrupt)
	if code, errOut := wait(); code != 130 {
		t.Errorf("exit code %d, stderr %q", code, errOut)
	}
	if list := h.list(); len(list.Sandboxes) != 0 {
		t.Errorf("left over: %+v", list)
	}
	if r := h.run("run", "--memory", "128M", "--", "sh", "-c", "exit 5"); r.code != 5 {
		t.Errorf("run: %+v", r)
	}
}

func TestTimeoutKillsTheProcessGroup(t *testing.T) {
	h := newHome(t)
	h.started("a")
	r := h.fails(137, []string{"killed after 500ms"}, "exec", "--timeout", "500ms", "a", "sh", "-c", "echo before; sleep 2222 & sleep 2222")
	if r.stdout != "before\n" {
		t.Errorf("stdout %q", r.stdout)
	}
	h.waitFor("the end of the group", func() bool { return h.sh("a", "ps | grep -c '[s]leep 2222'; true") == "0" })
}

// A reader that goes away ends the command, as a pipe does.
func TestOutputToAClosedPipe(t *testing.T) {
	h := newHome(t)
	h.started("a")
	cmd := h.command("exec", "a", "sh", "-c", "yes 3333")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := io.ReadFull(r, make([]byte, 1<<16)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	_ = cmd.Wait()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.ExitStatus() != 141 && ws.Signal() != syscall.SIGPIPE {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
	h.waitFor("the end of the command", func() bool { return h.sh("a", "ps | grep -c '[y]es 3333'; true") == "0" })
}

// A command that does not read its stdin, and a reader that does not read its output, hold up nobody else.
func TestBackPressure(t *testing.T) {
	h := newHome(t)
	h.started("a")
	deaf := h.command("exec", "-i", "a", "sleep", "4444")
	deaf.Stdin = zeros{}
	if err := deaf.Start(); err != nil {
		t.Fatal(err)
	}
	loud := h.command("exec", "a", "yes")
	pipe, err := loud.StdoutPipe() // read by nobody
	if err != nil {
		t.Fatal(err)
	}
	if err := loud.Start(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		h.ok("exec", "a", "true")
	}
	// A signal gets through although stdin is full.
	if err := deaf.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = deaf.Wait()
	if code := deaf.ProcessState.ExitCode(); code != 130 {
		t.Errorf("the command that does not read ended with %d", code)
	}
	pipe.Close()
	_ = loud.Process.Kill()
	_ = loud.Wait()
}

// A process that is left in the background does not hold its exec up, and lives on.
func TestBackgroundProcess(t *testing.T) {
	h := newHome(t)
	h.started("a")
	if got := h.sh("a", "(while :; do echo noise; sleep 0.05; done) & echo started"); !strings.Contains(got, "started") {
		t.Errorf("stdout %q", got)
	}
	if n := h.sh("a", "ps | grep -c '[w]hile'; true"); n == "0" {
		t.Error("the background process is gone")
	}
}
