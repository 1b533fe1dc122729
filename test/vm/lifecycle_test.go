package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Two sandboxes see neither each other's processes nor files, and root in one cannot change the image of the other.
func TestIsolation(t *testing.T) {
	h := newHome(t)
	h.started("one")
	h.started("two")
	h.sh("one", "echo secret > /root/secret; sleep 1000 >/dev/null 2>&1 &")
	if out := h.sh("two", "ls /root; ps"); strings.Contains(out, "secret") || strings.Contains(out, "sleep 1000") {
		t.Errorf("two sees what is one's:\n%s", out)
	}
	// The guest's root tries what it can: remount, write to the block device, make the device writable.
	script := `for d in /sys/block/vd*; do
  dev=/dev/$(basename $d)
  [ "$(cat $d/ro)" = 1 ] || continue
  blockdev --setrw $dev 2>/dev/null
  dd if=/dev/zero of=$dev bs=4096 count=4 conv=fsync 2>/dev/null && echo "wrote to $dev"
  mkdir -p /tmp/m && mount -o rw $dev /tmp/m 2>/dev/null && { echo x > /tmp/m/x; } 2>/dev/null && echo "mounted $dev writable"
done; echo done`
	if out := h.sh("one", script); out != "done" {
		t.Errorf("root in the guest could change an image: %s", out)
	}
	h.ok("image", "verify", "base")
	h.ok("exec", "two", "true")
}

// Two starts at once boot one microVM; both succeed.
func TestStartTwiceAtOnce(t *testing.T) {
	h := newHome(t)
	h.create("a")
	var wg sync.WaitGroup
	results := make([]result, 3)
	for i := range results {
		wg.Go(func() { results[i] = h.run("start", "a") })
	}
	wg.Wait()
	for _, r := range results {
		if r.code != 0 {
			t.Error(r)
		}
	}
	if n := h.vmms(); n != 1 {
		t.Errorf("%d VMMs run: %v", n, h.processes())
	}
}

func TestStopWhileStarting(t *testing.T) {
	h := newHome(t)
	h.create("a")
	start := h.command("start", "a")
	if err := start.Start(); err != nil {
		t.Fatal(err)
	}
	h.waitForState("a", "starting", "running")
	h.ok("stop", "a")
	_ = start.Wait() // refused when the stop came first
	h.expectState("a", "stopped")
	h.ok("start", "a")
	h.ok("rm", "--force", "a")
	h.fails(125, []string{"no sandbox"}, "inspect", "a")
}

func TestTwoCommandsStartOneDaemon(t *testing.T) {
	h := newHome(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() { h.ok("create", fmt.Sprintf("s%d", i), "--memory", "128M") })
	}
	wg.Wait()
	daemons := 0
	for _, p := range h.processes() {
		if strings.Contains(p, " daemon ") {
			daemons++
		}
	}
	if daemons != 1 {
		t.Errorf("%d daemons run: %v", daemons, h.processes())
	}
	if n := len(h.list().Sandboxes); n != 4 {
		t.Errorf("%d sandboxes", n)
	}
	h.fails(125, []string{"already"}, "create", "s0")
	h.fails(125, []string{"runs already"}, "daemon")
}

func TestVsockCIDClash(t *testing.T) {
	h := newHome(t)
	h.create("a", "--vsock-cid", "3")
	h.create("b")
	if cid := h.inspect("b").VsockCid; cid != 4 {
		t.Errorf("b got CID %d", cid)
	}
	h.fails(125, []string{"CID 4", "another"}, "create", "c", "--vsock-cid", "4")
}

// The project may contain anything; the host's directory is never changed.
func TestHostileProject(t *testing.T) {
	h := newHome(t)
	project := t.TempDir()
	write := func(name, content string, mode os.FileMode) {
		path := filepath.Join(project, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("run.sh", "#!/bin/sh\necho ran\n", 0o755)
	write("a\nb", "newline", 0o644)
	write(".gitignore", "ignored/\n*.log\n!keep.log\n", 0o644)
	write("ignored/x", "x", 0o644)
	write("b.log", "x", 0o644)
	write("keep.log", "x", 0o644)
	for _, link := range [][2]string{{".", "loop"}, {"../../../../etc/passwd", "escape"}, {"missing", "dangling"}} {
		if err := os.Symlink(link[0], filepath.Join(project, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("mkfifo", filepath.Join(project, "fifo")).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	h.started("a", "--project", project)
	got := h.sh("a", `./run.sh; cat 'a
b'; echo; for f in * .gitignore; do printf '<%s>' "$f"; done; echo; for l in loop escape dangling; do readlink $l; done; stat -c %U:%G:%a run.sh`)
	want := "ran\nnewline\n<a\nb><dangling><escape><keep.log><loop><run.sh><.gitignore>\n.\n../../../../etc/passwd\nmissing\nroot:root:755"
	if got != want {
		t.Errorf("inside:\n%s\nwant:\n%s", got, want)
	}
	h.fails(125, []string{"/no/such"}, "create", "b", "--project", "/no/such")
	h.fails(125, []string{"run.sh"}, "create", "b", "--project", filepath.Join(project, "run.sh"))
}

func TestParallelExecs(t *testing.T) {
	h := newHome(t)
	h.started("a")
	const n = 200
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			want := fmt.Sprintf("out %d\n", i)
			r := h.run("exec", "a", "sh", "-c", fmt.Sprintf("echo out %d; echo err %d >&2; exit %d", i, i, i%100))
			if r.code != i%100 || r.stdout != want || r.stderr != fmt.Sprintf("err %d\n", i) {
				t.Errorf("exec %d: %+v", i, r)
			}
		})
	}
	wg.Wait()
	if left := h.sh("a", "ps -o stat,args | grep '^Z\\|[e]cho out'; true"); left != "" {
		t.Errorf("processes left in the guest:\n%s", left)
	}
}
