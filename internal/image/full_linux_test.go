package image

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
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
	const plenty = 8 << 10
	for stage, c := range map[string]struct {
		cache, store int
		format       string
	}{
		"download":          {512, plenty, Erofs},
		"unpack":            {plenty, 512, Erofs},
		"image as erofs":    {plenty, 1536, Erofs}, // the layer fits, and not the image beside it
		"image as ext4":     {plenty, 1536, Ext4},
		"image as squashfs": {plenty, 1536, Squashfs},
	} {
		t.Run(stage, func(t *testing.T) {
			if _, err := exec.LookPath("sqfstar"); err != nil && c.format == Squashfs {
				t.Skip("squashfs-tools is not installed")
			}
			cache, root := smallDisk(t, c.cache), smallDisk(t, c.store)
			s, o := Open(root), pullOptions(t)
			o.Registries.Cache, o.Format = oci.Cache{Dir: cache}, c.format
			full := root
			if stage == "download" {
				full = cache
			}
			withoutRoom(t, s, full, func() error { _, _, err := s.Pull(ctx, ref, o); return err })
			enlarge(t, plenty, cache, root)
			if m, _, err := s.Pull(ctx, ref, o); err != nil || m.Size < 1<<20 {
				t.Errorf("with room: %+v, %v", m, err)
			}
		})
	}
	// The other ways that an image comes by.
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, append(ext4Head(), random[headLen:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(layout, name.MustParseReference("a/b:1"), imagetest.Image(t, "amd64", v1.Config{}, imagetest.Layer(t, imagetest.File("f", string(random), 0o644)))); err != nil {
		t.Fatal(err)
	}
	program := append(fakeBusybox(arches[hostArch()].machine, someApplets...), random...)
	for way, put := range map[string]func(*Store) error{
		"import": func(s *Store) error { _, err := s.Import(ctx, file, "x", sandbox.X8664, "a test"); return err },
		"path":   func(s *Store) error { _, err := s.Resolve(ctx, file, sandbox.X8664); return err },
		"load":   func(s *Store) error { _, err := s.Load(ctx, layout, nil, pullOptions(t)); return err },
		"archive on stdin": func(s *Store) error {
			in, err := os.Open(layout)
			if err != nil {
				return err
			}
			defer in.Close()
			_, err = s.Load(ctx, "-", in, pullOptions(t))
			return err
		},
		"recipe": func(s *Store) error {
			_, err := s.Build(ctx, "base", BuildOptions{Arch: hostArch(), Busybox: write(t, program), CacheDir: compiledBefore(t, hostArch())})
			return err
		},
	} {
		t.Run(way, func(t *testing.T) {
			root := smallDisk(t, 512)
			s := Open(root)
			withoutRoom(t, s, root, func() error { return put(s) })
			enlarge(t, plenty, root)
			if err := put(s); err != nil {
				t.Errorf("with room: %v", err)
			}
		})
	}
}

// withoutRoom has put fail for want of room in a directory, and leave nothing behind.
func withoutRoom(t *testing.T, s *Store, full string, put func() error) {
	t.Helper()
	wantKind(t, "no room", put(), sandbox.Unavailable, "disk is full", full)
	leftovers(t, s)
	if list, _, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func enlarge(t *testing.T, kib int, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, fmt.Sprintf("size=%dk", kib)); err != nil {
			t.Fatal(err)
		}
	}
}
