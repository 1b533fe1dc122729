package vm

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Sandboxes of a project that has not changed share one image, whoever their VMMs run as, and nothing else.
func TestProjectIsShared(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("of the project"), 0o600); err != nil {
		t.Fatal(err)
	}
	// What has just been written may still change without looking different. Nothing tells when that is over but the clock.
	timer := time.NewTimer(4 * time.Second)
	defer timer.Stop()
	<-timer.C
	h := newHome(t)
	var images []os.FileInfo
	for _, name := range []string{"a", "b"} {
		h.started(name, "--project", dir)
		info, err := os.Stat(filepath.Join(h.dir, "state", "sandboxes", h.inspect(name).Id, "workspace.ext4"))
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, info)
	}
	// The cache of this machine may be in another file system than this test's files.
	if !os.SameFile(images[0], images[1]) {
		t.Log("the image was copied")
	}
	h.sh("a", "echo changed > /workspace/file")
	h.ok("rm", "-f", "a")
	if got := h.sh("b", "cat /workspace/file"); got != "of the project" {
		t.Errorf("the other sandbox has %q", got)
	}
	h.ok("restart", "b")
	if got := h.sh("b", "cat /workspace/file"); got != "of the project" {
		t.Errorf("after a restart it has %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("of the prOject"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.started("c", "--project", dir)
	if got := h.sh("c", "cat /workspace/file"); got != "of the prOject" {
		t.Errorf("after a change of the project it has %q", got)
	}
}
