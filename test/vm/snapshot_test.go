package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// counting has a command in the background of a sandbox that counts in memory, and something on its disk.
func (h *home) counting(name string) {
	h.t.Helper()
	h.sh(name, "echo disk >/root/file; echo memory >/tmp/file")
	h.ok("exec", "-d", name, "sh", "-c", `n=0; while :; do n=$((n+1)); echo $n >/tmp/new; mv /tmp/new /tmp/count; sleep 0.05; done`)
	h.waitFor("the count", func() bool { return h.sh(name, "cat /tmp/count 2>/dev/null || echo 0") != "0" })
}

// count is how far the command has come. It goes on counting.
func (h *home) count(name string) int {
	h.t.Helper()
	n, err := strconv.Atoi(h.sh(name, "cat /tmp/count"))
	if err != nil {
		h.t.Error(err)
	}
	return n
}

// goesOn fails unless a sandbox has what counting has put into it, and counts from there.
func (h *home) goesOn(name string, from int) {
	h.t.Helper()
	if got := h.sh(name, "cat /root/file /tmp/file; hostname"); got != "disk\nmemory\n"+name {
		h.t.Errorf("%s has %q", name, got)
	}
	n := h.count(name)
	if n < from {
		h.t.Errorf("%s counts from %d, and was at %d", name, n, from)
	}
	h.waitFor("the count of "+name, func() bool { return h.count(name) > n })
}

func (h *home) snapshots() []client.Snapshot {
	h.t.Helper()
	var list client.SnapshotList
	if err := json.Unmarshal([]byte(h.ok("snapshot", "ls", "--json")), &list); err != nil {
		h.t.Fatal(err)
	}
	return list.Snapshots
}

// removeSnapshots removes all, and fails when anything of one is left.
func (h *home) removeSnapshots() {
	h.t.Helper()
	for _, s := range h.snapshots() {
		h.ok("snapshot", "rm", s.Id)
	}
	if left, err := os.ReadDir(filepath.Join(h.dir, "state/snapshots")); err != nil || len(left) > 0 {
		h.t.Errorf("left over of snapshots: %v %v", left, err)
	}
}

func TestSuspend(t *testing.T) {
	h := newHome(t)
	h.started("a", "--publish", "0:8080")
	h.counting("a")
	// The guest's clock is an hour behind, as that of one which was suspended an hour ago is when it goes on.
	h.sh("a", "date -s @$(($(date +%s) - 3600))")
	n := h.count("a")
	h.ok("suspend", "a")
	h.expectState("a", "suspended")
	if h.vmms() != 0 {
		t.Error("its VMM runs")
	}
	h.fails(125, []string{"is suspended", "agentkernel resume a"}, "exec", "a", "true")
	h.fails(125, []string{"is suspended"}, "pause", "a")
	h.fails(125, []string{"is suspended"}, "snapshot", "create", "a")
	h.killDaemon()
	h.ok("resume", "a")
	h.ok("resume", "a")
	h.goesOn("a", n)
	host := time.Now()
	guest, err := strconv.ParseInt(h.sh("a", "date +%s"), 10, 64)
	if late := time.Since(host); err != nil || guest < host.Unix()-1 || guest > host.Add(late).Unix()+1 {
		t.Errorf("the guest's clock says %d, and the host's %d (%v)", guest, host.Unix(), err)
	}
	if port := h.ok("port", "a"); !strings.Contains(port, "8080") {
		t.Errorf("its port is not published any more: %q", port)
	}

	h.ok("pause", "a")
	h.ok("suspend", "a")
	h.ok("start", "a")
	h.goesOn("a", n)

	h.ok("suspend", "a")
	h.ok("stop", "a")
	h.expectState("a", "stopped")
	h.fails(125, []string{"stopped, not suspended", "agentkernel start a"}, "resume", "a")
	h.ok("start", "a")
	if got := h.sh("a", "cat /root/file; cat /tmp/file 2>/dev/null || echo nothing"); got != "disk\nnothing" {
		t.Errorf("after a boot it has %q", got)
	}
}

// A memory file that is not what was saved is refused before a VMM is started, and the sandbox can be booted.
func TestDamagedMemory(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.sh("a", "echo disk >/root/file; sync")
	h.ok("snapshot", "create", "a", "good")
	for name, damage := range map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(path, 1<<20) },
		"flipped": func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			var b [1]byte
			if _, err := f.ReadAt(b[:], 20<<20); err != nil {
				return err
			}
			b[0] ^= 1
			_, err = f.WriteAt(b[:], 20<<20)
			return err
		},
	} {
		h.ok("suspend", "a")
		paths, err := filepath.Glob(filepath.Join(h.dir, "state/sandboxes/*/saved/state/mem*"))
		if err != nil || len(paths) != 1 {
			t.Fatal(paths, err)
		}
		if err := damage(paths[0]); err != nil {
			t.Fatal(err)
		}
		h.fails(125, []string{"damaged", paths[0], "agentkernel start --cold a"}, "start", "a")
		h.expectState("a", "suspended")
		if h.vmms() != 0 {
			t.Errorf("%s: a VMM was started", name)
		}
		h.ok("start", "--cold", "a")
		if got := h.sh("a", "cat /root/file"); got != "disk" {
			t.Errorf("%s: after a boot it has %q", name, got)
		}
	}
	paths, err := filepath.Glob(filepath.Join(h.dir, "state/snapshots/*/state/mem*"))
	if err != nil || len(paths) != 1 {
		t.Fatal(paths, err)
	}
	h.ok("create", "b", "--from-snapshot", "a:good")
	if err := os.Truncate(paths[0], 4096); err != nil {
		t.Fatal(err)
	}
	h.fails(125, []string{"damaged", paths[0]}, "start", "b")
	h.fails(125, []string{"damaged", paths[0]}, "create", "c", "--from-snapshot", "a:good")
	h.fails(125, []string{"snapshot a:good", "[b]"}, "snapshot", "rm", "a:good")
	h.ok("rm", "b")
	h.removeSnapshots()
}

func TestSnapshots(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.counting("a")
	n := h.count("a")
	// A command whose client is connected stays with the original, where its connection does.
	cmd := h.command("exec", "-i", "a", "sh", "-c", "echo begun; read line; echo got $line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("begun\n"))); err != nil {
		t.Fatal(err)
	}
	r := h.run("snapshot", "create", "a", "one")
	if r.code != 0 || r.stdout != "a:one\n" || !strings.Contains(r.stderr, "stood still for") {
		t.Errorf("%+v", r)
	}
	h.goesOn("a", n)
	if *h.inspect("a").Engine == "firecracker" { // it ends all connections to a guest that it saves
		if err := cmd.Wait(); err == nil {
			t.Error("the command of the original's client ended well")
		}
	} else {
		if _, err := fmt.Fprintln(in, "word"); err != nil {
			t.Error(err)
		}
		rest, err := io.ReadAll(out)
		if err = errors.Join(err, cmd.Wait()); err != nil || string(rest) != "got word\n" {
			t.Errorf("the command of the original's client says %q (%v)", rest, err)
		}
	}
	h.sh("a", "echo other >/root/file; echo other >/tmp/file")
	h.fails(125, []string{"there is a snapshot a:one already", "snapshot rm a:one"}, "snapshot", "create", "a", "one")

	h.ok("create", "b", "--from-snapshot", "a:one")
	h.killDaemon()
	h.ok("start", "b")
	h.goesOn("b", n)
	if got := h.sh("b", "ps | grep -c '[r]ead line'; true"); got != "0" {
		t.Errorf("%s commands of the original's clients run in the copy", got)
	}
	h.ok("snapshot", "rm", "a:one") // its memory is mapped
	h.goesOn("b", n)

	// A snapshot of what was restored, and a fork of what was restored from that.
	h.ok("snapshot", "create", "b", "two")
	h.ok("create", "c", "--from-snapshot", "b:two")
	h.ok("start", "c")
	h.goesOn("c", n)
	if got := strings.Fields(h.ok("fork", "c", "-n", "2", "--name", "d")); len(got) != 2 || got[0] != "d-1" || got[1] != "d-2" {
		t.Errorf("fork prints %q", got)
	}
	ids := map[string]bool{}
	for _, name := range []string{"a", "b", "c", "d-1", "d-2"} {
		if name != "a" {
			h.goesOn(name, n)
		}
		ids[h.sh(name, "cat /etc/machine-id")] = true
	}
	if len(ids) != 5 {
		t.Errorf("machine ids: %v", ids)
	}
	tree := h.ok("list", "--tree")
	for _, line := range []string{"\na ", "\n└─ b ", "\n   └─ c ", "\n      ├─ d-1 ", "\n      └─ d-2 "} {
		if !strings.Contains(tree, line) {
			t.Errorf("the tree lacks %q:\n%s", line, tree)
		}
	}
	h.removeSnapshots()
}

// Many at once come of one snapshot.
func TestManyRestores(t *testing.T) {
	n := *restores
	h := newHome(t)
	h.started("a")
	h.sh("a", "echo memory >/tmp/file")
	id := strings.TrimSpace(h.ok("exec", "-d", "a", "sleep", "100000"))
	h.ok("snapshot", "create", "a", "one")
	h.ok("stop", "--timeout", "0s", "a")
	done := make(chan string, n)
	for i := range n {
		go func() {
			name := fmt.Sprintf("r%d", i)
			for _, args := range [][]string{{"create", name, "--from-snapshot", "a:one"}, {"start", name, "--timeout", "10m"}} {
				if out, err := h.command(args...).CombinedOutput(); err != nil {
					done <- fmt.Sprintf("%v: %v %s", args, err, out)
					return
				}
			}
			done <- ""
		}()
	}
	for range n {
		if problem := <-done; problem != "" {
			t.Error(problem)
		}
	}
	for i := range n {
		name := fmt.Sprintf("r%d", i)
		if got := h.sh(name, "cat /tmp/file; hostname"); got != "memory\n"+name {
			t.Errorf("%s has %q", name, got)
		}
		if !strings.Contains(h.ok("ps", name), id) {
			t.Errorf("the command does not run in %s", name)
		}
	}
	h.removeSnapshots()
}
