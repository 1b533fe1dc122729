package disk

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/go-units"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func needMke2fs(t testing.TB) {
	t.Helper()
	if _, err := findMke2fs(); err != nil {
		t.Skip(err)
	}
}

func TestCreate(t *testing.T) {
	needMke2fs(t)
	ctx := context.Background()
	const behind = 16
	for _, sizeMiB := range []int{64, 1024, 64 + behind, sandbox.DefaultDiskMiB + behind} {
		dir := t.TempDir()
		path := filepath.Join(dir, "upper.ext4")
		cache := filepath.Join(dir, "cache")
		var err error
		if fs := sizeMiB - behind; sizeMiB%64 == behind {
			err = CreateUpper(ctx, cache, path, fs, behind)
		} else {
			err = Create(ctx, cache, path, sizeMiB)
		}
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() != int64(sizeMiB)<<20 || info.Mode() != 0o600 {
			t.Errorf("%d MiB: size %d, mode %v", sizeMiB, info.Size(), info.Mode())
		}
		allocated, err := AllocatedBytes(path)
		if err != nil {
			t.Fatal(err)
		}
		if allocated > 200<<10 {
			t.Errorf("a disk of %d MiB takes %d KiB of the host, want at most 200", sizeMiB, allocated>>10)
		}
		if out, err := runTool("e2fsck", "-fn", path); errors.Is(err, exec.ErrNotFound) {
			t.Log("e2fsck is not there to check the result")
		} else if err != nil {
			t.Errorf("%d MiB: %v\n%s", sizeMiB, err, out)
		}
		if out, err := runTool("dumpe2fs", path); err == nil && strings.Count(out, "ITABLE_ZEROED") != strings.Count(out, "(Blocks ") {
			t.Errorf("%d MiB: the guest would zero inode tables", sizeMiB)
		}
		assertNames(t, dir, "cache", "upper.ext4")
	}
}

// runTool runs a program of e2fsprogs.
func runTool(name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name
		if _, statErr := os.Stat(path); statErr != nil {
			return "", err
		}
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	return string(out), err
}

func TestCreateGivesTheSameBytesAnywhere(t *testing.T) {
	needMke2fs(t)
	var first []byte
	for range 2 {
		dir := t.TempDir()
		path := filepath.Join(dir, "d")
		if err := Create(context.Background(), dir, path, 64); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, b) {
			t.Error("two disks of one size differ")
		}
		first = b
	}
}

func TestCreateReplacesADamagedTemplate(t *testing.T) {
	needMke2fs(t)
	dir := t.TempDir()
	ctx := context.Background()
	good, err := layout{64, 0, checksums}.template(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func() error{
		"empty":     func() error { return os.Truncate(good, 0) },
		"truncated": func() error { return os.Truncate(good, 1<<20) },
		"zeros":     func() error { return errors.Join(os.Truncate(good, 0), os.Truncate(good, 64<<20)) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "d")
		if err := Create(ctx, dir, path, 64); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s template: the disk is not a good one (%v)", name, err)
		}
	}
}

func TestCreateStops(t *testing.T) {
	needMke2fs(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Create(ctx, dir, filepath.Join(dir, "d"), 64); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
	assertNames(t, dir)
	if err := Create(context.Background(), dir, filepath.Join(dir, "d"), 0); sandbox.KindOf(err) != sandbox.Invalid {
		t.Errorf("a disk of 0 MiB: %v", err)
	}
}

func TestNoMke2fs(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	saved := toolDirs
	toolDirs = nil
	defer func() { toolDirs = saved }()
	err := Create(context.Background(), t.TempDir(), filepath.Join(t.TempDir(), "d"), 64)
	var e *sandbox.Error
	if !errors.As(err, &e) || e.Kind != sandbox.Unavailable || !strings.Contains(e.Hint, "e2fsprogs") {
		t.Errorf("%#v, want an error that says what to install", err)
	}
}

func TestCopy(t *testing.T) {
	random := make([]byte, 300<<10+17)
	_, _ = rand.Read(random)
	for name, parts := range map[string]map[int64][]byte{
		"empty":        {},
		"small":        {0: []byte("x")},
		"random":       {0: random},
		"zeros inside": {0: bytes.Join([][]byte{random, make([]byte, 100000), random}, nil)},
		"holes":        {5 << 20: random, 40 << 20: []byte("y"), 90<<20 + 1: random},
	} {
		dir := t.TempDir()
		src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
		f, err := os.Create(src)
		if err != nil {
			t.Fatal(err)
		}
		for off, b := range parts {
			if _, err := f.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
		}
		if name == "holes" {
			if err := f.Truncate(200 << 20); err != nil { // ends in a hole
				t.Fatal(err)
			}
		}
		_ = f.Close()
		if err := Copy(context.Background(), dst, src, 0o640); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		a, _ := os.ReadFile(src)
		b, err := os.ReadFile(dst)
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: the copy differs (%v)", name, err)
		}
		want, _ := AllocatedBytes(src)
		if got, err := AllocatedBytes(dst); err != nil || got > want+64<<10 {
			t.Errorf("%s: the copy takes %d bytes, the original %d (%v)", name, got, want, err)
		}
		assertNames(t, dir, "dst", "src")
	}
}

func TestCopyFailsCleanly(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	if err := os.WriteFile(src, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dst, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Copy(ctx, dst, src, 0o600); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
	if err := Copy(context.Background(), dst, dir, 0o600); err == nil {
		t.Error("a directory was copied")
	}
	if b, _ := os.ReadFile(dst); string(b) != "old" {
		t.Errorf("the destination became %q", b)
	}
	assertNames(t, dir, "dst", "src")
}

func assertNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if strings.Join(names, " ") != strings.Join(want, " ") {
		t.Errorf("%s has %q, want %q", dir, names, want)
	}
}

// BenchmarkCreate makes disks of sizes that have been made before, and those of a size that has not ("first").
func BenchmarkCreate(b *testing.B) {
	needMke2fs(b)
	for _, sizeMiB := range []int{64, sandbox.DefaultDiskMiB, 100 << 10, 1 << 20} {
		name := units.BytesSize(float64(sizeMiB) * (1 << 20))
		b.Run("first/"+name, func(b *testing.B) {
			for b.Loop() {
				dir := b.TempDir()
				if err := Create(context.Background(), dir, filepath.Join(dir, "d"), sizeMiB); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("again/"+name, func(b *testing.B) {
			dir := b.TempDir()
			path := filepath.Join(dir, "d")
			if err := Create(context.Background(), dir, path, sizeMiB); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := Create(context.Background(), dir, path, sizeMiB); err != nil {
					b.Fatal(err)
				}
			}
			n, err := AllocatedBytes(path)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(n)/1024, "KiB/disk")
		})
	}
}
