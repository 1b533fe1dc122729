package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// moment is when something of a command has been done: the files are there, of one engine or the other.
type moment struct {
	name  string
	globs string // below the home, one of which is to find
	least int    // so many
}

// The moments of each command, in their order.
var (
	whileSnapshot = []moment{
		{"begun", "state/snapshots/.new-*", 1}, {"saving", "state/snapshots/.new-*/state/*", 1}, {"disk", "state/snapshots/.new-*/upper.ext4", 1},
		{"finishing", "state/snapshots/.new-*/state/mem*", 1}, {"there", "state/snapshots/????????????????", 1},
	}
	whileSuspend = []moment{
		{"begun", "state/sandboxes/*/saved.new", 1}, {"saving", "state/sandboxes/*/saved.new/state/*", 1}, {"finishing", "state/sandboxes/*/saved.new/state/mem*", 1},
		{"manifest", "state/sandboxes/*/saved.new/manifest.json", 1}, {"saved", "state/sandboxes/*/saved", 1},
	}
	whileRestore = []moment{
		{"begun", "run/????????????????", 1}, {"launching", "run/????????????????/*", 1}, {"connected", "run/????????????????/*.sock run/????????????????/sockets/*.sock", 1},
	}
	whileFork = []moment{
		{"saving", "state/snapshots/.new-*/state/*", 1}, {"finishing", "state/snapshots/.new-*/state/mem*", 1}, {"a child", "state/sandboxes/????????????????", 2},
		{"disks", "state/sandboxes/????????????????/upper.ext4", 2}, {"launching", "run/????????????????", 2}, {"children", "run/????????????????", 3},
	}
)

// cut runs a command and kills a process at a moment of it, or after it when it was faster.
func (h *home) cut(at moment, victim func() int, args ...string) {
	h.t.Helper()
	cmd := h.command(args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	h.waitFor(at.name, func() bool {
		n := 0
		for glob := range strings.FieldsSeq(at.globs) {
			paths, _ := filepath.Glob(filepath.Join(h.dir, glob))
			n += len(paths)
		}
		select {
		case <-done:
			return true
		default:
			return n >= at.least
		}
	})
	if pid := victim(); pid > 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
	}
	<-done
	h.t.Logf("%v at %q: %v: %s", args, at.name, cmd.ProcessState, strings.TrimSpace(said.String()))
}

// vmm is the pid of a VMM that is not one of these.
func (h *home) vmm(but ...int) int {
	for _, p := range h.processes() {
		pid, err := strconv.Atoi(strings.Fields(p)[0])
		if err == nil && strings.Contains(p, "agentkernel-") && !strings.Contains(p, binary+" ") && !slices.Contains(but, pid) {
			return pid
		}
	}
	return 0
}

// settled is the state of a sandbox when it is none that passes, or "" when it is gone.
func (h *home) settled(name string) (state string) {
	h.t.Helper()
	h.waitFor("a state of "+name, func() bool {
		state = ""
		for _, sb := range h.list().Sandboxes {
			if sb.Name == name {
				state = string(sb.State)
			}
		}
		return state != "starting" && state != "stopping"
	})
	return state
}

// whole checks that each snapshot that is there can be restored, and that nothing else is.
func (h *home) whole(from int) {
	h.t.Helper()
	for _, s := range h.snapshots() {
		h.ok("create", "of-it", "--from-snapshot", s.Ref)
		h.ok("start", "of-it")
		h.goesOn("of-it", from)
		h.ok("rm", "--force", "of-it")
	}
	h.removeSnapshots()
}

// again has the sandbox a running and counting, whatever has become of it.
func (h *home) again() int {
	h.t.Helper()
	if h.settled("a") != "running" {
		h.ok("start", "--cold", "a")
		h.counting("a")
	}
	return h.count("a")
}

// The daemon or the VMM is killed at each moment of a snapshot: the sandbox goes on unless its VMM was killed, and there is a whole
// snapshot or none.
func TestKilledDuringSnapshot(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.counting("a")
	for _, at := range whileSnapshot {
		n := h.again()
		h.cut(at, h.daemonPID, "snapshot", "create", "a", "t")
		if state := h.settled("a"); state != "running" {
			t.Errorf("%s: it is %s", at.name, state)
		}
		h.goesOn("a", n)
		h.whole(n)
	}
	for _, at := range whileSnapshot[:4] {
		n := h.again()
		pid := *h.inspect("a").Pid
		h.cut(at, func() int { return pid }, "snapshot", "create", "a", "t")
		h.waitForState("a", "failed")
		h.whole(n)
	}
}

// As TestKilledDuringSnapshot, of a suspension: the sandbox runs, or it is suspended and goes on.
func TestKilledDuringSuspend(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.counting("a")
	for _, at := range whileSuspend {
		n := h.again()
		h.cut(at, h.daemonPID, "suspend", "a")
		if state := h.settled("a"); state != "running" && state != "suspended" {
			t.Errorf("%s: it is %s", at.name, state)
		}
		h.ok("start", "a")
		h.goesOn("a", n)
		h.expectNoSavedMemory()
	}
	for _, at := range whileSuspend {
		n := h.again()
		pid := *h.inspect("a").Pid
		h.cut(at, func() int { return pid }, "suspend", "a")
		switch state := h.settled("a"); state {
		case "suspended":
			h.ok("start", "a")
			h.goesOn("a", n)
		case "failed":
			h.expectNoSavedMemory()
		default:
			h.waitForState("a", "failed") // the end of the VMM has not been seen yet
		}
	}
}

func (h *home) expectNoSavedMemory() {
	h.t.Helper()
	if left, _ := filepath.Glob(filepath.Join(h.dir, "state/sandboxes/*/saved*")); len(left) > 0 {
		h.t.Errorf("left over: %v", left)
	}
}

// As TestKilledDuringSnapshot, of a resume: the sandbox runs, or is suspended as before; and of the first start of one that was made
// from a snapshot.
func TestKilledDuringRestore(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.counting("a")
	n := h.count("a")
	h.ok("snapshot", "create", "a", "t")
	for victim, pid := range map[string]func() int{"daemon": h.daemonPID, "VMM": func() int { return h.vmm() }} {
		for _, at := range whileRestore {
			if h.settled("a") == "running" {
				h.ok("suspend", "a")
			}
			kill := pid
			if victim == "daemon" {
				daemon := h.daemonPID()
				kill = func() int { return daemon }
			}
			h.cut(at, kill, "resume", "a")
			if victim == "VMM" && h.settled("a") == "running" { // it may have come to that before it was killed
				h.waitFor("the end", func() bool { s := h.settled("a"); return s == "failed" || s == "suspended" || h.vmms() == 1 })
			}
			switch state := h.settled("a"); {
			case state == "failed" && victim == "VMM":
				h.ok("start", "a")
				h.counting("a")
			case state == "suspended", state == "running":
				h.ok("start", "a")
				h.goesOn("a", n)
			default:
				t.Errorf("%s killed at %q: it is %s", victim, at.name, state)
			}
			h.ok("suspend", "a")

			h.ok("create", "b", "--from-snapshot", "a:t")
			if victim == "daemon" {
				daemon := h.daemonPID()
				kill = func() int { return daemon }
			}
			h.cut(at, kill, "start", "b")
			if state := h.settled("b"); state == "running" && victim == "VMM" {
				h.waitFor("the end", func() bool { return h.settled("b") != "running" || h.vmms() == 1 })
			}
			h.ok("start", "b")
			if got := h.sh("b", "cat /root/file"); got != "disk" {
				t.Errorf("%s killed at %q: the copy has %q", victim, at.name, got)
			}
			h.ok("rm", "--force", "b")
		}
	}
	h.ok("start", "a")
	h.removeSnapshots()
}

// As TestKilledDuringSnapshot, of a fork: the original goes on, and each copy that there is runs.
func TestKilledDuringFork(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.counting("a")
	parent := *h.inspect("a").Pid
	for victim, pid := range map[string]func() int{"daemon": h.daemonPID, "VMM": func() int { return h.vmm(parent) }} {
		for _, at := range whileFork {
			n := h.count("a")
			kill := pid
			if victim == "daemon" {
				daemon := h.daemonPID()
				kill = func() int { return daemon }
			}
			h.cut(at, kill, "fork", "a", "-n", "2")
			h.goesOn("a", n)
			for _, sb := range h.list().Sandboxes {
				if sb.Name == "a" {
					continue
				}
				switch state := h.settled(sb.Name); {
				case state == "running" && victim == "daemon":
					h.goesOn(sb.Name, n)
				case state == "":
				case victim == "daemon":
					t.Errorf("daemon killed at %q: %s is %s", at.name, sb.Name, state)
				}
				h.ok("rm", "--force", sb.Name)
			}
			if left, err := os.ReadDir(filepath.Join(h.dir, "state/snapshots")); err != nil || len(left) > 0 {
				t.Errorf("%s killed at %q: left over: %v %v", victim, at.name, left, err)
			}
		}
	}
}
