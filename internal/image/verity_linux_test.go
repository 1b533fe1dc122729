package image

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// verityFS is a directory on a file system that has fs-verity: the one that AGENTKERNEL_TEST_VERITY names, else an ext4 that is
// mounted, which takes privileges and a kernel with CONFIG_FS_VERITY.
func verityFS(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("AGENTKERNEL_TEST_VERITY"); dir != "" {
		return dir
	}
	if _, err := os.Stat("/sys/fs/ext4/features/verity"); err != nil {
		t.Skip("this host's kernel has no fs-verity for ext4")
	}
	device, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := errors.Join(os.WriteFile(device, nil, 0o600), os.Truncate(device, 64<<20)); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "verity", device},
		{"mount", "-o", "loop", device, dir},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v: %s", strings.Join(command, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// An image on a file system with fs-verity has it, whichever way it came; it can be read, and not be written to by anybody.
func TestVerity(t *testing.T) {
	s := Open(filepath.Join(verityFS(t), "images"))
	m, err := s.Import(t.Context(), imageFile(t, ext4Head()), "mine", sandbox.X8664, "a test")
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.OpenDigest(t.Context(), m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if digest := Verity(img.Path); !strings.HasPrefix(digest, "sha256:") || len(digest) != 7+64 {
		t.Errorf("fs-verity says %q", digest)
	}
	if _, err := s.Verify(t.Context(), "mine", sandbox.X8664); err != nil {
		t.Error(err)
	}
	if f, err := os.OpenFile(img.Path, os.O_RDWR, 0); err == nil {
		f.Close()
		t.Error("the image can be written to")
	}
}

// Without fs-verity an image is as good, and nothing claims that it is checked.
func TestNoVerity(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("cannot mount a file system without fs-verity: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	s := Open(filepath.Join(dir, "images"))
	m, err := s.Import(t.Context(), imageFile(t, ext4Head()), "mine", sandbox.X8664, "a test")
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.OpenDigest(t.Context(), m.Digest)
	if err != nil || Verity(img.Path) != "" {
		t.Errorf("fs-verity says %q, %v", Verity(img.Path), err)
	}
}
