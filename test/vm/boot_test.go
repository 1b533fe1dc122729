package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ownData gives the home a data directory of its own, with links to the machine's files, so that a test can spoil them.
func (h *home) ownData() string {
	h.t.Helper()
	data := filepath.Join(h.dir, "data")
	if err := os.Remove(data); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		h.t.Fatal(err)
	}
	for _, part := range []string{"cache", "images", "kernels"} { // others write templates meanwhile
		if out, err := exec.Command("cp", "-a", "--reflink=auto", filepath.Join(hostData, part), data).CombinedOutput(); err != nil {
			h.t.Fatal(err, string(out))
		}
	}
	return data
}

func TestSpoiledKernelAndImage(t *testing.T) {
	h := newHome(t)
	data := h.ownData()
	h.create("a")

	kernels, _ := filepath.Glob(filepath.Join(data, "kernels/*/vmlinux-*"))
	t.Run("truncated kernel", func(t *testing.T) {
		for _, path := range kernels {
			if err := os.Truncate(path, 100_000); err != nil {
				t.Fatal(err)
			}
		}
		h.fails(125, []string{"is damaged", "100000 bytes instead of"}, "start", "a")
		h.expectState("a", "failed")
	})
	t.Run("no kernel", func(t *testing.T) {
		if err := os.RemoveAll(filepath.Join(data, "kernels")); err != nil {
			t.Fatal(err)
		}
		h.fails(125, []string{"kernel", "agentkernel kernel build"}, "start", "a")
	})
	t.Run("no image", func(t *testing.T) {
		if err := os.RemoveAll(filepath.Join(data, "images")); err != nil {
			t.Fatal(err)
		}
		h.fails(125, []string{"image"}, "start", "a")
		h.fails(125, []string{"image", "base"}, "create", "b")
	})
}

// An image that is none: refused when it is seen to be, and else shown with the console when the guest panics over it.
func TestBadImages(t *testing.T) {
	h := newHome(t)
	h.ownData()
	dir := t.TempDir()
	files := map[string]string{}
	for name, f := range map[string]func(string) error{
		"garbage.img": func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("garbage!", 1<<16)), 0o600) },
		"empty.img":   func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"truncated.img": func(p string) error {
			images, _ := filepath.Glob(filepath.Join(hostData, "images/blobs/*/*"))
			if len(images) == 0 {
				t.Fatal("there is no image to truncate")
			}
			data, err := os.ReadFile(images[0])
			if err != nil {
				return err
			}
			return os.WriteFile(p, data[:len(data)/3], 0o600)
		},
	} {
		files[name] = filepath.Join(dir, name)
		if err := f(files[name]); err != nil {
			t.Fatal(err)
		}
		h.fails(125, []string{name}, "create", "a", "--image", files[name])
	}

	// A file system with nothing in it: the guest's kernel and agent come up, and there is nothing to run.
	image := filepath.Join(dir, "nothing.ext4")
	if out, err := exec.Command("/sbin/mke2fs", "-q", "-t", "ext4", image, "4M").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	h.started("nothing", "--image", image)
	h.fails(127, nil, "exec", "nothing", "true")
	h.ok("stop", "nothing")

	// The upper disk is spoiled, so the guest agent cannot mount it: it says so on the console and ends the microVM.
	h.create("spoiled")
	upper := filepath.Join(filepath.Dir(h.recordOf("spoiled")), "upper.ext4")
	if err := os.WriteFile(upper, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h.fails(125, []string{"the end of its console", "agentkernel: cannot go on: mount", "on upper"}, "start", "--cold", "spoiled")
	h.expectState("spoiled", "failed")
	if log := h.ok("logs", "spoiled"); !strings.Contains(log, "agentkernel: cannot go on: mount") {
		t.Errorf("logs: %s", log)
	}
}

// The kernel finds nothing to run and panics: the error shows the console with the panic.
func TestKernelPanics(t *testing.T) {
	h := newHome(t)
	data := h.ownData()
	h.started("a") // the daemon has checked the initramfs, and does not do so again
	h.ok("stop", "a")
	initrds, _ := filepath.Glob(filepath.Join(data, "cache/initramfs/*"))
	if len(initrds) == 0 {
		t.Fatal("there is no initramfs")
	}
	for _, path := range initrds {
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.fails(125, []string{"Kernel panic - not syncing", "the end of its console", "hint: agentkernel logs a"}, "start", "a")
	h.expectState("a", "failed")
	if log := h.ok("logs", "a"); !strings.Contains(log, "Kernel panic - not syncing") {
		t.Errorf("logs: %s", log)
	}
	h.ok("daemon", "stop") // the next one makes the initramfs anew
	h.ok("start", "a")
}

// The guest agent does not answer within the deadline: the VMM is killed, and the error says so.
func TestBootDeadline(t *testing.T) {
	h := newHome(t)
	h.create("a")
	h.fails(125, []string{"did not answer within 30ms", "console"}, "start", "a", "--timeout", "30ms")
	h.expectState("a", "failed")
	if n := h.vmms(); n != 0 {
		t.Errorf("%d VMMs still run: %v", n, h.processes())
	}
	h.ok("start", "a")
}
