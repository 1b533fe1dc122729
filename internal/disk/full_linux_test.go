package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// smallFS mounts a file system of 16 KiB, which needs privileges.
func smallFS(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestDiskFull(t *testing.T) {
	needMke2fs(t)
	ctx := context.Background()
	small, big := smallFS(t), t.TempDir()
	for name, create := range map[string]func() error{
		"no room for the template": func() error { return Create(ctx, small, filepath.Join(big, "d"), 1024) },
		"no room for the disk":     func() error { return Create(ctx, filepath.Join(big, "cache"), filepath.Join(small, "d"), 1024) },
		"no room for a copy": func() error {
			src := filepath.Join(t.TempDir(), "src")
			b := make([]byte, 256<<10)
			_, _ = rand.Read(b)
			if err := os.WriteFile(src, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return Copy(ctx, filepath.Join(small, "d"), src, 0o600)
		},
	} {
		err := create()
		var e *sandbox.Error
		if !errors.As(err, &e) || e.Kind != sandbox.Unavailable || e.Hint == "" {
			t.Errorf("%s: %v, want an error that says that the disk is full", name, err)
		}
		assertNames(t, small)
	}
}
