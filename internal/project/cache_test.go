package project

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// cached packs dir with a cache and checks that the image is what it is without.
func cached(t *testing.T, dir, cache string, want bool) {
	t.Helper()
	packInto(t, filepath.Join(t.TempDir(), "image"), dir, Options{Cache: cache, settled: tick}, want)
}

func packInto(t *testing.T, image, dir string, o Options, want bool) {
	t.Helper()
	r, err := Pack(context.Background(), dir, image, o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Cached != want {
		t.Errorf("cached: %v, want %v", r.Cached, want)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	same := mustPack(t, dir, plain)
	same.Cached = r.Cached
	if d := cmp.Diff(same, r); d != "" {
		t.Errorf("the report (-without the cache +with it):\n%s", d)
	}
	a, errA := os.ReadFile(image)
	b, errB := os.ReadFile(plain)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("the image is another one than without a cache (%v, %v)", errA, errB)
	}
}

// tick is longer than the clock of a file system of today stands still.
const tick = 20 * time.Millisecond

// age lets that clock go on. There is no event to wait for, and the time of change cannot be set.
func age(t *testing.T) {
	t.Helper()
	timer := time.NewTimer(2 * tick)
	defer timer.Stop()
	<-timer.C
}

// look is what a walk sees of a directory.
func look(t *testing.T, dir string) [32]byte {
	t.Helper()
	top, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	w := newWalker(context.Background(), top, nil, &Report{}, nil)
	if err := w.walk(); err != nil {
		t.Fatal(err)
	}
	return w.looked()
}

func TestCache(t *testing.T) {
	dir, cache := t.TempDir(), filepath.Join(t.TempDir(), "cache [1]")
	git(t, dir, "init", "-q")
	for name, data := range map[string]string{"a": "1", "sub/b": "22", "sub/.gitignore": "*.log\n", "sub/x.log": "", "sub/deep/c": "333"} {
		writeFile(t, filepath.Join(dir, name), data, 0o644)
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what is as new as that may change and look the same
		packInto(t, filepath.Join(t.TempDir(), "image"), dir, Options{Cache: cache}, false)
	}
	age(t)
	image := filepath.Join(t.TempDir(), "image")
	packInto(t, image, dir, Options{Cache: cache, settled: tick}, false)
	cached(t, dir, cache, true)
	packInto(t, image, dir, Options{Cache: cache, settled: tick}, true) // in place of what is there, which is the same file
	if left, _ := os.ReadDir(filepath.Dir(image)); len(left) != 1 {
		t.Error("left over:", left)
	}

	// Another directory with the same in it is another project.
	other := t.TempDir()
	cached(t, other, cache, false)
	cached(t, dir, cache, true)

	// Every change is seen, also one that keeps size and time of modification.
	info, err := os.Stat(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"contents": func() error {
			writeFile(t, filepath.Join(dir, "a"), "2", 0o644)
			return os.Chtimes(filepath.Join(dir, "a"), info.ModTime(), info.ModTime())
		},
		"mode":   func() error { return os.Chmod(filepath.Join(dir, "sub/b"), 0o600) },
		"name":   func() error { return os.Rename(filepath.Join(dir, "sub/deep/c"), filepath.Join(dir, "sub/deep/d")) },
		"rules":  func() error { return os.WriteFile(filepath.Join(dir, "sub/.gitignore"), []byte("*.lag\n"), 0o644) },
		"target": func() error { return os.Remove(filepath.Join(dir, "link")) },
	} {
		before := look(t, dir)
		age(t)
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if look(t, dir) == before {
			t.Errorf("the change of %s is not seen", name)
		}
	}
	cached(t, dir, cache, false)
	// One image of each project is kept.
	age(t)
	cached(t, dir, cache, false)
	cached(t, dir, cache, true)
	entries, err := os.ReadDir(cache)
	if err != nil || len(entries) != 1 {
		t.Errorf("the cache has %v, %v", entries, err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(cache, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	cached(t, dir, cache, false)
}

// What could not be read may be readable the next time, whatever it looks like.
func TestCacheOfUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root can read everything")
	}
	dir, cache := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), "1", 0)
	age(t)
	cached(t, dir, cache, false)
	cached(t, dir, cache, false)
}

func TestCacheForgets(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	old := filepath.Join(cache, "of-another-project.ext4")
	writeFile(t, old, "", 0o444)
	long := time.Now().Add(-cacheAge - time.Hour)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "a"), "1", 0o644)
	age(t)
	cached(t, dir, cache, false)
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Error("an old image is kept:", err)
	}
}
