package snapshot

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

const id = "0123456789abcdef"

func manifest(id, name, tag string) Manifest {
	return Manifest{
		ID: id, Sandbox: name, SandboxID: "aaaaaaaaaaaaaaaa", Tag: tag, CreatedAt: time.Unix(1700000000, 5).UTC(),
		State: sandbox.SavedState{Engine: "qemu", Files: []string{"memory"}},
	}
}

// begun is a snapshot with a memory file and a disk, not committed yet.
func begun(t *testing.T, s *Store, m Manifest) (string, Manifest) {
	t.Helper()
	dir, err := s.Begin(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, StateDir), 0o700); err != nil {
		t.Fatal(err)
	}
	memory := make([]byte, 3*sumBlock)
	copy(memory[sumBlock+7:], "memory")
	if err := os.WriteFile(filepath.Join(dir, StateDir, "memory"), memory, 0o600); err != nil {
		t.Fatal(err)
	}
	src := filepath.Join(t.TempDir(), "upper.ext4")
	if err := os.WriteFile(src, []byte("upper"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := CopyDisk(t.Context(), dir, src, sandbox.Upper)
	if err != nil {
		t.Fatal(err)
	}
	m.Disks = []Disk{d}
	if m, err = s.Seal(t.Context(), dir, m); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

func put(t *testing.T, s *Store, m Manifest) Manifest {
	t.Helper()
	dir, m := begun(t, s, m)
	if err := s.Commit(dir, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := s.Load(); err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	return s
}

func TestStore(t *testing.T) {
	root := filepath.Join(t.TempDir(), "snapshots")
	s := open(t, root)
	want := put(t, s, manifest(id, "a", "before"))
	put(t, s, manifest("0123000000000000", "a", ""))
	if _, err := s.Begin(manifest("1111111111111111", "a", "before")); sandbox.KindOf(err) != sandbox.Exists {
		t.Error("a tag twice:", err)
	}
	if _, err := s.Begin(manifest("1111111111111111", "a", "../x")); sandbox.KindOf(err) != sandbox.Invalid {
		t.Error("a wrong tag:", err)
	}
	for range 2 { // as it is, and as the next daemon finds it
		for _, ref := range []string{"a:before", id, "01234"} {
			if m, err := s.Find(ref); err != nil || !reflect.DeepEqual(m, want) {
				t.Errorf("%s: %+v, %v; want %+v", ref, m, err, want)
			}
		}
		for ref, kind := range map[string]sandbox.Kind{"0123": sandbox.Invalid, "": sandbox.NotFound, "a:": sandbox.NotFound, "a": sandbox.NotFound, "f": sandbox.NotFound} {
			if _, err := s.Find(ref); sandbox.KindOf(err) != kind {
				t.Errorf("%q: %v", ref, err)
			}
		}
		if err := s.Check(t.Context(), s.Dir(id), want); err != nil {
			t.Error(err)
		}
		s = open(t, root)
	}
	if list := s.List(); len(list) != 2 {
		t.Error(list)
	}
	_, done, err := s.Use("a:before")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(id); sandbox.KindOf(err) != sandbox.Conflict {
		t.Error("removed under a restore:", err)
	}
	done()
	done()
	if err := s.Remove(id); err != nil {
		t.Error(err)
	}
	put(t, s, manifest(id, "a", "before")) // the tag is free again
}

// A daemon that dies in the middle leaves nothing, and whoever gives up neither.
func TestHalfMadeSnapshots(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	begun(t, s, manifest(id, "a", "t"))
	s = open(t, root)
	_, m := begun(t, s, manifest(id, "a", "t"))
	if err := s.Abandon(m); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
	put(t, s, manifest(id, "a", "t"))
}

func TestCheckFindsDamage(t *testing.T) {
	flip := func(path string, at int64) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			return err
		}
		b[0] ^= 4
		_, err = f.WriteAt(b[:], at)
		return err
	}
	for name, tc := range map[string]struct {
		damage func(memory string) error
		says   string
	}{
		"truncated":       {func(p string) error { return os.Truncate(p, 5) }, "has 5 bytes"},
		"grown":           {func(p string) error { return os.Truncate(p, 1<<20) }, "has 1048576 bytes"},
		"a bit":           {func(p string) error { return flip(p, sumBlock+8) }, "checksum"},
		"a bit of a hole": {func(p string) error { return flip(p, 5) }, "checksum"},
		"the last bit":    {func(p string) error { return flip(p, 3*sumBlock-1) }, "checksum"},
		"emptied":         {func(p string) error { return errors.Join(os.Truncate(p, 0), os.Truncate(p, 3*sumBlock)) }, "checksum"},
		"gone":            {os.Remove, "missing"},
		"with an old time": {func(p string) error {
			return errors.Join(flip(p, sumBlock), os.Chtimes(p, time.Time{}, time.Unix(1, 0)))
		}, "checksum"},
		"replaced": {func(p string) error {
			return errors.Join(os.WriteFile(p+"2", make([]byte, 3*sumBlock), 0o600), os.Rename(p+"2", p))
		}, "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			m := put(t, s, manifest(id, "a", ""))
			if err := s.Check(t.Context(), s.Dir(id), m); err != nil {
				t.Fatal(err)
			}
			memory := filepath.Join(s.Dir(id), StateDir, "memory")
			if err := tc.damage(memory); err != nil {
				t.Fatal(err)
			}
			err := s.Check(t.Context(), s.Dir(id), m)
			if sandbox.KindOf(err) != sandbox.Failure || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), memory) {
				t.Errorf("%v, want %q", err, tc.says)
			}
		})
	}
}

// A file that has not changed is not read again.
func TestCheckReadsOnce(t *testing.T) {
	s := open(t, t.TempDir())
	m := put(t, s, manifest(id, "a", ""))
	for path := range s.known {
		if !strings.HasPrefix(path, s.Dir(id)+"/") {
			t.Errorf("%s is remembered", path)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // reading would fail
	if err := s.Check(ctx, s.Dir(id), m); err != nil {
		t.Error(err)
	}
	if err := s.Remove(id); err != nil || len(s.known) > 0 {
		t.Error(err, s.known)
	}
}

// The sum is that of the contents, not of where the host's file system has holes.
func TestSum(t *testing.T) {
	noise := make([]byte, 2*sumBlock+5)
	_, _ = rand.Read(noise)
	for name, content := range map[string][]byte{
		"empty": {}, "zeros": make([]byte, 5*sumBlock+1), "noise": noise,
		"mixed": bytes.Join([][]byte{make([]byte, 17*sumBlock), noise, make([]byte, 40*sumBlock+9), noise}, nil),
		"late":  append(make([]byte, 100*sumBlock-3), 1, 2, 3, 4, 5),
	} {
		sum := func(write func(*os.File)) string {
			f, err := os.Create(filepath.Join(t.TempDir(), "f"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			write(f)
			sum, size, err := Sum(t.Context(), f)
			if err != nil || size != int64(len(content)) {
				t.Fatal(size, err)
			}
			return sum
		}
		dense := sum(func(f *os.File) { _, _ = f.Write(content) })
		sparse := sum(func(f *os.File) {
			_ = f.Truncate(int64(len(content)))
			for i := 0; i < len(content); i += 4096 {
				if b := content[i:min(i+4096, len(content))]; len(bytes.Trim(b, "\x00")) > 0 {
					_, _ = f.WriteAt(b, int64(i))
				}
			}
		})
		if dense != sparse {
			t.Errorf("%s: %s with holes, %s without", name, sparse, dense)
		}
		if len(content) > 0 {
			content[len(content)-1] ^= 1
			if other := sum(func(f *os.File) { _, _ = f.Write(content) }); other == dense {
				t.Errorf("%s: the last bit does not count", name)
			}
		}
	}
}

func TestChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "upper")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := StampDisk(path, sandbox.Upper)
	if err != nil {
		t.Fatal(err)
	}
	m := manifest(id, "a", "")
	m.Disks = []Disk{d, {Role: sandbox.Workspace, File: "copied"}}
	find := func(sandbox.DiskRole) (string, error) { return path, nil }
	if role, err := m.Changed(find); role != "" || err != nil {
		t.Error(role, err)
	}
	if err := os.WriteFile(path, []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if role, err := m.Changed(find); role != sandbox.Upper || err != nil {
		t.Error(role, err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	want := manifest(id, "a", "")
	want.Version = Version
	if err := Write(dir, want); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(dir); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, content := range []string{"", "{", `{"version":2}`, `{"version":1}`} {
		if err := os.WriteFile(filepath.Join(dir, manifestFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"0123456789abcdef","sandbox":"a","state":{"engine":"qemu"},"files":[{"path":"state/memory","size_bytes":1,"sum":"0"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, manifestFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := Read(dir)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if p := filepath.Join(dir, file.Path); !strings.HasPrefix(p, dir+"/") {
				t.Errorf("%q is outside of its directory", file.Path)
			}
		}
	})
}
