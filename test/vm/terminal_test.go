package vm

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// prompt is that of root's login shell in sandbox a.
const prompt = "a:~#"

// A day at the terminal: the editor, sizes, job control, and the shell's end.
func TestShell(t *testing.T) {
	h := newHome(t)
	h.started("a")
	s := h.on("shell", "a")
	s.last(prompt)

	s.press("vi /root/note\r")
	s.last("- /root/note")
	s.press("ihello grün")
	s.shows("hello grün")
	s.press("\x1b")
	s.last("- /root/note [Modified]")
	s.press(":wq\r")
	s.last(prompt)
	if got := h.sh("a", "cat /root/note"); got != "hello grün" {
		t.Errorf("vi wrote %q", got)
	}

	s.press("clear; stty size\r")
	s.shows("24 80")
	s.press("vi /root/note\r")
	s.last("- /root/note")
	s.resize(100, 40)
	s.waitFor("vi on 40 lines", func(lines []string) bool {
		return len(lines) == 40 && lines[0] == "hello grün" && lines[38] == "~" && strings.HasPrefix(lines[39], "- /root/note")
	})
	s.press(":q\r")
	s.last(prompt)
	s.press("clear; stty size\r")
	s.shows("40 100")

	s.press("clear; sleep 5001\r")
	h.waitFor("sleep", func() bool { return h.sh("a", "ps | grep -c '[s]leep 5001'; true") == "1" })
	s.press("\x03")
	s.last(prompt)
	s.press("code=$?; clear; echo code $code; sleep 5002\r")
	s.shows("code 130")
	h.waitFor("sleep", func() bool { return h.sh("a", "ps | grep -c '[s]leep 5002'; true") == "1" })
	s.press("\x1a")
	s.last(prompt)
	s.press("clear; jobs\r")
	s.shows("[1]+  Stopped                    sleep 5002")
	s.press("clear; fg\r")
	// The shell says so before it puts the job into the foreground.
	h.waitFor("sleep to go on", func() bool { return h.sh("a", "ps -o stat,args | grep -c '^T.*[s]leep 5002'; true") == "0" })
	s.press("\x1c")
	s.last(prompt)
	if n := h.sh("a", "ps | grep -c '[s]leep 500'; true"); n != "0" {
		t.Errorf("%s are left of sleep", n)
	}

	s.press("clear; top -d 1\r")
	s.waitFor("top", func(lines []string) bool { return len(lines) > 0 && strings.HasPrefix(lines[0], "Mem:") })
	s.press("q")
	s.last(prompt)
	s.press("clear; seq 1000 | less\r")
	s.waitFor("less", func(lines []string) bool { return len(lines) >= 39 && lines[0] == "1" })
	s.press("q")
	s.last(prompt)

	s.press("clear; echo bye; (exit 6)\r")
	s.waitFor("the prompt again", func(lines []string) bool { return slices.Equal(lines, []string{"bye", prompt}) })
	s.press("\x04") // only now: while a command runs, the key would be the end of its input
	s.exits(6)
}

// However a session is cut short, the terminal is as it was before, and the program on it ends.
func TestTerminalIsPutBack(t *testing.T) {
	h := newHome(t)
	h.started("a")
	edit := func() *screen {
		s := h.on("exec", "-it", "a", "vi", "/root/note")
		s.last("- /root/note")
		if s.termios() == s.before {
			t.Error("the terminal is not in raw mode")
		}
		return s
	}
	gone := func() {
		t.Helper()
		h.waitFor("the end of vi", func() bool { return h.sh("a", "ps | grep -c '[v]i /root/note'; true") == "0" })
	}
	t.Run("the client is told to end", func(t *testing.T) {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP} {
			s := edit()
			if err := s.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			s.exits(128 + int(sig))
		}
		gone()
	})
	t.Run("the program is killed", func(t *testing.T) {
		s := edit()
		h.ok("exec", "a", "killall", "-9", "vi")
		s.exits(128 + int(syscall.SIGKILL))
	})
	t.Run("the daemon dies", func(t *testing.T) {
		s := edit()
		h.killDaemon()
		s.exits(125)
		if all := strings.Join(s.lines(), " "); !strings.Contains(all, "the connection to the daemon broke") {
			t.Errorf("it says %q", all)
		}
		gone()
	})
	t.Run("the microVM dies", func(t *testing.T) {
		s := edit()
		kill(t, *h.inspect("a").Pid)
		s.exits(125)
	})
}

// A program in the background is told to draw for the terminal that attaches to it, and goes on when that leaves.
func TestAttachTerminal(t *testing.T) {
	h := newHome(t)
	h.started("a")
	id := strings.TrimSpace(h.ok("exec", "-d", "-it", "a", "sh", "-c", "trap 'stty size' WINCH; trap 'exit 4' INT; echo begun; while :; do sleep 0.1; done"))
	h.waitFor("the program", func() bool { return strings.Contains(h.ok("logs", "a", "--exec", id), "begun") })
	for _, end := range []struct {
		keys string
		code int
	}{{"\x10\x11", 0}, {"\x03", 4}} {
		s := h.on("attach", "a", id)
		s.shows("24 80")
		s.resize(90, 30)
		s.shows("30 90")
		s.resize(80, 24)
		s.waitFor("the first size again", func(lines []string) bool { return len(lines) == 3 && lines[2] == "24 80" })
		s.press(end.keys)
		s.exits(end.code)
	}
}

// A recording that is played shows what was to be seen: characters, colours, sizes.
func TestRecordAndReplay(t *testing.T) {
	h := newHome(t)
	h.started("a")
	file := filepath.Join(t.TempDir(), "session.cast")
	s := h.on("shell", "--record", file, "a")
	s.last(prompt)
	s.press("clear; for i in 1 9 200; do printf \"\\033[38;5;${i}m$i \\033[0m\"; done; printf 'gr\\303'; sleep 0.1; printf '\\274n\\n'\r")
	s.shows("1 9 200 grün")
	s.press("vi /etc/passwd\r")
	s.last("- /etc/passwd")
	s.press(":q\r")
	s.last(prompt)
	s.press("exit 3\r")
	s.exits(3)
	played := h.on("replay", "--speed", "50", "--idle-limit", "1", file)
	played.exits(0)
	if diff := cmp.Diff(s.lines(), played.lines()); diff != "" {
		t.Error(diff)
	}
	if s.model.Render() != played.model.Render() {
		t.Errorf("styles differ:\n%q\n%q", s.model.Render(), played.model.Render())
	}
	if !slices.ContainsFunc(s.lines(), func(l string) bool { return l == "1 9 200 grün" }) {
		t.Errorf("the end of the session shows %q", s.lines())
	}
}

// With -t alone nothing is typed, but the terminal has this one's size, and Ctrl-C is a signal for the command.
func TestTerminalWithoutStdin(t *testing.T) {
	h := newHome(t)
	h.started("a")
	s := h.on("exec", "-t", "a", "sh", "-c", "trap 'stty size' WINCH; trap 'echo caught; exit 4' INT; echo begun; while :; do sleep 0.1; done")
	s.shows("begun")
	s.resize(100, 40)
	s.shows("40 100")
	s.press("\x03")
	s.exits(4)
	s.shows("^Ccaught")
}
