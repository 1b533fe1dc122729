package image

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/image/imagetest"
	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// smallDisk is a directory on a file system of its own with this many KiB.
func smallDisk(t *testing.T, kib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk", kib)); err != nil {
		t.Skipf("only root can mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("something is left open: %v", err)
		}
	})
	return dir
}

// The host's disk may be full at any stage. The error says where, nothing is left behind in the store, and the pull goes
// through once there is room.
func TestDiskFull(t *testing.T) {
	ctx := context.Background()
	random := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	reg := imagetest.NewRegistry(t)
	ref := reg.Push("x:1", imagetest.Image(t, "amd64", v1.Config{}, imagetest.Layer(t, imagetest.File("f", string(random), 0o644))))
	plenty := 8 << 10
	for stage, c := range map[string]struct{ cache, store int }{
		"download": {512, plenty},
		"unpack":   {plenty, 512},
		"image":    {plenty, 1536}, // the layer fits, and not the image beside it
	} {
		t.Run(stage, func(t *testing.T) {
			cache, root := smallDisk(t, c.cache), smallDisk(t, c.store)
			s, o := Open(root), pullOptions(t)
			o.Registries.Cache = oci.Cache{Dir: cache}
			_, _, err := s.Pull(ctx, ref, o)
			full := root
			if stage == "download" {
				full = cache
			}
			wantKind(t, stage, err, sandbox.Unavailable, "disk is full", full)
			leftovers(t, s)
			if list, _, err := s.List(); err != nil || len(list) != 0 {
				t.Errorf("%v, %v", list, err)
			}
			for _, dir := range []string{cache, root} {
				if err := unix.Mount("", dir, "", unix.MS_REMOUNT, fmt.Sprintf("size=%dk", plenty)); err != nil {
					t.Fatal(err)
				}
			}
			if m, _, err := s.Pull(ctx, ref, o); err != nil || m.Size < 1<<20 {
				t.Errorf("with room: %+v, %v", m, err)
			}
		})
	}
}
