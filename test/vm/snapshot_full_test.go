package vm

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The host's disk is full at one or another step of a snapshot, a suspension, a fork, or the start of what came of a snapshot: it fails
// and says so, nothing is left, the sandbox goes on, and it works when there is room.
func TestDiskFullWhileSaving(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	smallDisk(t, state)
	h := newHomeIn(t, dir)
	h.started("a", "--disk", "64M")
	h.counting("a")
	h.allocate() // the guest's own writes are another matter
	filler := filepath.Join(state, "filler")
	leave := func(free int64) {
		t.Helper()
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := io.Copy(f, zeros{}); err == nil {
			t.Fatal("the disk is not full")
		}
		info, err := f.Stat()
		if err == nil {
			err = f.Truncate(max(0, info.Size()-free))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	room := func() {
		t.Helper()
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	failed := map[string]int{}
	for _, tc := range []struct {
		args []string
		undo func()
	}{
		{[]string{"snapshot", "create", "a"}, h.removeSnapshots},
		{[]string{"suspend", "a"}, func() { h.ok("resume", "a") }},
		{[]string{"fork", "a", "-n", "2", "--name", "f"}, func() { h.ok("rm", "--force", "f-1", "f-2") }},
	} {
		for _, free := range []int64{0, 8 << 20, 40 << 20, 70 << 20} {
			n := h.count("a")
			leave(free)
			r := h.run(tc.args...)
			if r.code == 0 {
				room()
				tc.undo()
				h.goesOn("a", n)
				continue
			}
			failed[tc.args[0]]++
			if r.code != 125 || !strings.Contains(r.stderr, "no space left") {
				t.Errorf("%v with %d KiB: exit code %d, %s", tc.args, free>>10, r.code, r.stderr)
			}
			h.goesOn("a", n) // also while the disk is full
			if left, err := os.ReadDir(filepath.Join(state, "snapshots")); err != nil || len(left) > 0 {
				t.Errorf("%v with %d KiB: left over: %v %v", tc.args, free>>10, left, err)
			}
			h.expectNoSavedMemory()
			if n := len(h.list().Sandboxes); n != 1 {
				t.Errorf("%v with %d KiB: there are %d sandboxes", tc.args, free>>10, n)
			}
			room()
		}
		if failed[tc.args[0]] < 2 {
			t.Errorf("%v failed %d times: the disk was not full at its steps", tc.args, failed[tc.args[0]])
		}
		h.ok(tc.args...)
		tc.undo()
	}

	n := h.count("a")
	h.ok("snapshot", "create", "a", "t")
	h.ok("create", "b", "--from-snapshot", "a:t")
	leave(16 << 10)
	h.fails(125, []string{"no space left"}, "start", "b")
	room()
	h.ok("start", "b")
	h.goesOn("b", n)
	h.ok("rm", "--force", "b")
	h.removeSnapshots()
}

// smallDisk mounts an ext4 of 500 MiB. (In a full tmpfs, a VMM whose memory is mapped from a file there dies when it reads from a hole
// of it, which takes room.)
func smallDisk(t *testing.T, dir string) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	script := `truncate -s 500M "$1" && mke2fs -q -t ext4 -m 0 "$1" && mount -o loop "$1" "$2" && rmdir "$2/lost+found" && chmod 700 "$2"`
	if out, err := exec.Command("sh", "-c", script, "sh", image, dir).CombinedOutput(); err != nil {
		t.Skipf("a small file system cannot be mounted here (needs root and loop devices): %s", out)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}

// allocate gives the disks of all sandboxes all the room that they may need.
func (h *home) allocate() {
	h.t.Helper()
	disks, err := filepath.Glob(filepath.Join(h.dir, "state/sandboxes/*/upper.ext4"))
	if err != nil || len(disks) == 0 {
		h.t.Fatal(disks, err)
	}
	for _, path := range disks {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			h.t.Fatal(err)
		}
		info, err := f.Stat()
		if err == nil {
			err = unix.Fallocate(int(f.Fd()), 0, 0, info.Size())
		}
		if err != nil {
			h.t.Fatal(fmt.Errorf("allocate %s: %w", path, err))
		}
		f.Close()
	}
}
