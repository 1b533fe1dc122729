package vm

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// detached starts a command in the background and returns its id.
func (h *home) detached(name string, args ...string) string {
	h.t.Helper()
	return strings.TrimSpace(h.ok(append([]string{"exec", "-d", name}, args...)...))
}

// execs is what ps tells.
func (h *home) execs(name string) map[string]client.ExecInfo {
	h.t.Helper()
	var list struct{ Execs []client.ExecInfo }
	if err := json.Unmarshal([]byte(h.ok("ps", "--all", "--json", name)), &list); err != nil {
		h.t.Fatal(err)
	}
	found := map[string]client.ExecInfo{}
	for _, x := range list.Execs {
		found[x.Id] = x
	}
	return found
}

// TestBackground has commands that outlive their client and the daemon.
func TestBackground(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.sh("a", "mkfifo /tmp/go")
	id := h.detached("a", "sh", "-c", "echo out; echo err >&2; read line </tmp/go; echo said $line; exit 7")
	waiting := h.detached("a", "sleep", "100000")
	if x := h.execs("a")[waiting]; x.EndedAt != nil || !x.Detached || x.User != "root" || strings.Join(x.Argv, " ") != "sleep 100000" {
		t.Errorf("%+v", x)
	}
	h.killDaemon()
	if x := h.execs("a")[waiting]; x.EndedAt != nil {
		t.Errorf("it did not survive the daemon: %+v", x)
	}
	h.sh("a", "echo this >/tmp/go")
	r := h.run("logs", "a", "--exec", id, "-f")
	if r.code != 0 || r.stdout != "out\nsaid this\n" || r.stderr != "err\n" {
		t.Errorf("logs: %+v", r)
	}
	if got := h.ok("wait", "a", id); got != "7\n" {
		t.Errorf("wait says %q", got)
	}
	h.ok("kill", "a", waiting[:6], "-s", "USR1")
	if got := h.ok("wait", "a", waiting); got != "138\n" {
		t.Errorf("wait says %q", got)
	}
	h.fails(125, []string{"has ended"}, "kill", "a", waiting)
	h.fails(125, []string{"no command with the id"}, "logs", "a", "--exec", "nothing")
	h.fails(125, []string{"no command with the id"}, "attach", "a", "zz")
}

// TestAttach talks to a command in the background, twice.
func TestAttach(t *testing.T) {
	h := newHome(t)
	h.started("a")
	id := strings.TrimSpace(h.ok("exec", "-d", "-i", "a", "sh", "-c", "while read line; do echo got $line; done; exit 3"))
	cmd := h.command("attach", "a", id)
	cmd.Stdin = strings.NewReader("one\ntwo\n")
	if r := h.wait(cmd); r.code != 3 || r.stdout != "got one\ngot two\n" {
		t.Errorf("%+v", r)
	}
	if got := h.ok("logs", "a", "--exec", id, "--follow"); got != "got one\ngot two\n" {
		t.Errorf("logs: %q", got)
	}
	if x := h.execs("a")[id]; x.EndedAt == nil || x.Code == nil || *x.Code != 3 {
		t.Errorf("%+v", x)
	}
	// Much more than is kept: the end is there, and what is missing is told.
	id = h.detached("a", "sh", "-c", "seq 1 100000")
	h.ok("wait", "a", id)
	r := h.run("logs", "a", "--exec", id)
	if !strings.HasSuffix(r.stdout, "99999\n100000\n") || len(r.stdout) > 128<<10 {
		t.Errorf("logs keep %d bytes, to %q", len(r.stdout), tail([]byte(r.stdout), 20))
	}
	foreground, _ := h.begun("exec", "a", "sh", "-c", "echo begun; sleep 100000")
	for id, x := range h.execs("a") {
		if x.EndedAt == nil {
			h.fails(125, []string{"not started in the background"}, "logs", "a", "--exec", id)
			h.ok("kill", "a", id)
		}
	}
	if code, _ := foreground(); code != 143 {
		t.Errorf("exit code %d", code)
	}
}

// TestLimits has limits of one command, which others do not have.
func TestLimits(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.fails(137, []string{"more memory than its limit"}, "exec", "--memory", "16m", "a", "sh", "-c", "x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo ${#x}")
	if got := h.sh("a", "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ${#x}"); got != "20000000" {
		t.Errorf("without a limit: %q", got)
	}
	h.fails(2, []string{"can't fork"}, "exec", "--pids-limit", "4", "a", "sh", "-c", "for i in 1 2 3 4 5; do sleep 1000 & done")
	h.fails(125, []string{"--memory"}, "exec", "--memory", "lots", "a", "true")
	h.fails(125, []string{"--pids-limit"}, "exec", "--pids-limit", "-1", "a", "true")
	// What a killed command started dies with it, in whatever session it is; what one that ended left behind goes on.
	id := h.detached("a", "sh", "-c", "setsid sleep 5551 & sleep 5552")
	h.sh("a", "setsid sleep 5553 </dev/null >/dev/null 2>&1 &")
	h.ok("kill", "a", id, "-s", "KILL")
	h.ok("wait", "a", id)
	if got := h.sh("a", "ps | grep -c '[s]leep 555[12]'; ps | grep -c '[s]leep 5553'; true"); got != "0\n1" {
		t.Errorf("processes: %q", got)
	}
}

// TestForkBomb checks that other commands can be run meanwhile, and that the sandbox stops.
func TestForkBomb(t *testing.T) {
	h := newHome(t)
	h.started("a")
	id := h.detached("a", "sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 100000")
	if got := h.sh("a", "echo rescued"); got != "rescued" {
		t.Errorf("%q", got)
	}
	h.ok("kill", "a", id, "-s", "KILL")
	h.ok("wait", "a", id)
	if got := h.sh("a", "ps | wc -l"); len(got) > 2 {
		t.Errorf("%s processes are left", got)
	}
	h.detached("a", "sh", "-c", "bomb() { bomb | bomb & }; bomb; sleep 100000")
	h.ok("stop", "a")
}

// TestDiskFullInside fills the sandbox's disk from within.
func TestDiskFullInside(t *testing.T) {
	h := newHome(t)
	h.started("a", "--disk", "64M")
	r := h.run("exec", "a", "sh", "-c", "dd if=/dev/zero of=/fill bs=1M; dd if=/dev/zero of=/fill2 bs=1")
	if r.code == 0 || !strings.Contains(r.stderr, "No space left on device") {
		t.Errorf("%+v", r)
	}
	if got := h.sh("a", "echo rescued; rm /fill /fill2; echo x >/file; cat /file"); got != "rescued\nx" {
		t.Errorf("%q", got)
	}
	h.ok("stop", "a")
}
