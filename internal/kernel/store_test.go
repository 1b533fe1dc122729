package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// put places a kernel with a key made of one letter into a store.
func put(t *testing.T, s *Store, letter string, arch Arch, built time.Time) Kernel {
	t.Helper()
	key := strings.Repeat(letter, 64)
	dir := filepath.Join(s.Root(), key)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := func(name string) File {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		return File{Name: name, Size: int64(len(name)), SHA256: key}
	}
	k := Kernel{Format: manifestFormat, Key: key, Arch: arch, Version: "6.1.70", Origin: originRelease, SourceSHA256: key,
		Compiler: "gcc", BuiltAt: built, Vmlinux: file("vmlinux-6.1.70-agentkernel"), Config: file("config")}
	text, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, manifestName), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return k
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(filepath.Join(t.TempDir(), "kernels"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStoreListsNewestFirst(t *testing.T) {
	s := newStore(t)
	if _, err := s.Latest(X86_64); !errors.Is(err, ErrNoKernel) {
		t.Errorf("empty store: %v", err)
	}
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	put(t, s, "a", X86_64, day)
	newest := put(t, s, "b", X86_64, day.AddDate(0, 0, 2))
	other := put(t, s, "c", AArch64, day.AddDate(0, 0, 1))

	kernels, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var order string
	for _, k := range kernels {
		order += k.Key[:1]
	}
	if order != "bca" {
		t.Errorf("order %s", order)
	}
	if k, err := s.Latest(X86_64); err != nil || k.Key != newest.Key || k.Release() != "6.1.70-agentkernel" {
		t.Errorf("latest x86_64 %+v, %v", k, err)
	}
	if k, err := s.Latest(AArch64); err != nil || k.Key != other.Key {
		t.Errorf("latest aarch64 %+v, %v", k, err)
	} else if text, err := os.ReadFile(k.VmlinuxPath()); err != nil || string(text) != k.Vmlinux.Name {
		t.Errorf("its vmlinux %q, %v", text, err)
	}
}

func TestStoreNamesWhatIsDamagedAndGoesOn(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(dir string) error
	}{
		{"no manifest", func(dir string) error { return os.Remove(filepath.Join(dir, manifestName)) }},
		{"half a manifest", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, manifestName), []byte(`{"format":1,`), 0o600)
		}},
		{"manifest of another version", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, manifestName), []byte(`{"format":99}`), 0o600)
		}},
		{"no kernel", func(dir string) error { return os.Remove(filepath.Join(dir, "vmlinux-6.1.70-agentkernel")) }},
		{"truncated kernel", func(dir string) error { return os.Truncate(filepath.Join(dir, "vmlinux-6.1.70-agentkernel"), 3) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			good := put(t, s, "a", X86_64, time.Unix(1, 0))
			bad := put(t, s, "b", X86_64, time.Unix(2, 0))
			if err := c.damage(filepath.Join(s.Root(), bad.Key)); err != nil {
				t.Fatal(err)
			}
			kernels, err := s.List()
			if err == nil || !strings.Contains(err.Error(), bad.Key) {
				t.Errorf("error %v names not the damaged kernel", err)
			}
			if len(kernels) != 1 || kernels[0].Key != good.Key {
				t.Errorf("list %v", kernels)
			}
			if k, err := s.Latest(X86_64); err != nil || k.Key != good.Key {
				t.Errorf("latest %v, %v", k.Key, err)
			}
			if _, err := s.Open(bad.Key); err == nil {
				t.Error("the damaged kernel opens")
			}
			if _, err := os.Stat(filepath.Join(s.Root(), bad.Key)); err != nil {
				t.Error("the damaged kernel was not left alone")
			}
		})
	}
}

func TestOpenRefusesWhatIsNoKey(t *testing.T) {
	s := newStore(t)
	for _, key := range []string{"", "..", "../kernels", strings.Repeat("a", 63), strings.Repeat("A", 64), strings.Repeat("a", 64)} {
		if _, err := s.Open(key); !errors.Is(err, ErrNoKernel) {
			t.Errorf("Open(%q): %v", key, err)
		}
	}
}

func TestLockExcludesAndCanBeGivenUp(t *testing.T) {
	s := newStore(t)
	unlock, err := s.lock(context.Background(), "k", func() { t.Error("waited for a free lock") })
	if err != nil {
		t.Fatal(err)
	}
	// The second waits, and is called off.
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := s.lock(ctx, "k", cancel); !errors.Is(err, context.Canceled) {
		t.Fatalf("a held lock gave %v", err)
	}
	// The third waits until the first lets go; the wait that was called off
	// must not keep the lock from it.
	third, err := s.lock(context.Background(), "k", unlock)
	if err != nil {
		t.Fatal(err)
	}
	third()
}

func TestSweepRemovesOnlyAbandonedBuilds(t *testing.T) {
	s := newStore(t)
	abandoned, active := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for _, key := range []string{abandoned, active} {
		if err := os.MkdirAll(filepath.Join(s.Root(), buildPrefix+key, "src"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := s.lock(context.Background(), active, func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := s.sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.Root(), buildPrefix+abandoned)); !os.IsNotExist(err) {
		t.Errorf("the abandoned build is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.Root(), buildPrefix+active)); err != nil {
		t.Errorf("the active build was removed: %v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"format":1,"key":"x"}`))
	f.Add([]byte(`{"format":1,"arch":"x86_64","version":"6.1.70","vmlinux":{"name":"../../etc/passwd","size":1}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseManifest(text)
		if err != nil {
			return
		}
		for _, file := range k.files() {
			if filepath.Dir(filepath.Join("/store/key", file.Name)) != "/store/key" {
				t.Errorf("file %q leaves the kernel's directory", file.Name)
			}
		}
	})
}
