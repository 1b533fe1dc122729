package image

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// imageFile writes a file that looks like an image of 1 MiB.
func imageFile(t *testing.T, head []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(path, head, 0o644), os.Truncate(path, 1<<20)); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantKind(t *testing.T, what string, err error, kind sandbox.Kind, parts ...string) {
	t.Helper()
	var e *sandbox.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Errorf("%s: %v, want an error of kind %s", what, err, kind)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error()+"\n"+e.Hint, part) {
			t.Errorf("%s: %q with hint %q lacks %q", what, err, e.Hint, part)
		}
	}
}

func always(string) bool { return true }
func never(string) bool  { return false }

func TestStore(t *testing.T) {
	ctx := context.Background()
	s := Open(filepath.Join(t.TempDir(), "images"))
	if list, problems, err := s.List(); err != nil || len(list)+len(problems) != 0 {
		t.Fatalf("a new store has %v, %v, %v", list, problems, err)
	}
	_, err := s.Resolve(ctx, "base", sandbox.X8664)
	wantKind(t, "none yet", err, sandbox.NotFound, "none is there yet", "agentkernel image build base --arch x86_64")

	file := imageFile(t, squashfsHead())
	m, err := s.Import(ctx, file, "mine", sandbox.X8664, "a test")
	if err != nil {
		t.Fatal(err)
	}
	if m.FS != Squashfs || m.Size != 1<<20 || !strings.HasPrefix(m.Digest, "sha256:") {
		t.Errorf("%+v", m)
	}
	if _, err := s.Import(ctx, imageFile(t, ext4Head()), "mine", sandbox.AArch64, "a test"); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(ctx, "mine", sandbox.X8664)
	if err != nil || img.Digest != m.Digest || img.FS != Squashfs || img.Name != "mine" || img.Arch != sandbox.X8664 {
		t.Errorf("%+v, %v", img, err)
	}
	info, err := os.Stat(img.Path)
	if err != nil || info.Mode() != 0o444 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Truncate(file, 0); err != nil { // no harm to the copy
		t.Fatal(err)
	}
	if _, err := s.Verify(ctx, "mine", sandbox.X8664); err != nil {
		t.Error(err)
	}
	if byDigest, err := s.OpenDigest(ctx, m.Digest); err != nil || byDigest.Path != img.Path {
		t.Errorf("%+v, %v", byDigest, err)
	}
	if list, _, err := s.List(); err != nil || len(list) != 2 || list[0].Arch != sandbox.AArch64 || list[1] != m {
		t.Errorf("%+v, %v", list, err)
	}
	_, err = s.Resolve(ctx, "python", sandbox.X8664)
	wantKind(t, "unknown", err, sandbox.NotFound, `no image "python" for x86_64; there are mine`, "agentkernel image build")

	if _, err := s.Remove("mine", sandbox.X8664, always); err != nil {
		t.Error(err)
	}
	if _, err := s.OpenDigest(ctx, m.Digest); err != nil {
		t.Errorf("a sandbox lost its image: %v", err)
	}
	_, err = s.Remove("mine", sandbox.X8664, always)
	wantKind(t, "remove again", err, sandbox.NotFound)
	assertNoTemporaries(t, s)
}

func assertNoTemporaries(t *testing.T, s *Store) {
	t.Helper()
	err := filepath.WalkDir(s.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), ".") {
			t.Errorf("left behind: %s", path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestResolvePath(t *testing.T) {
	ctx := context.Background()
	s := Open(filepath.Join(t.TempDir(), "images"))
	file := imageFile(t, erofsHead())
	first, err := s.Resolve(ctx, file, sandbox.X8664)
	if err != nil || first.FS != Erofs || first.Arch != "" || first.Name != file {
		t.Fatalf("%+v, %v", first, err)
	}
	if again, err := s.Resolve(ctx, file, sandbox.AArch64); err != nil || again != first {
		t.Errorf("%+v, %v", again, err)
	}
	if list, _, _ := s.List(); len(list) != 0 {
		t.Errorf("a path became a name: %v", list)
	}
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	text := filepath.Join(dir, "text")
	short := filepath.Join(dir, "short")
	if err := errors.Join(syscall.Mkfifo(fifo, 0o644), os.WriteFile(text, []byte("hello"), 0o644), os.WriteFile(short, erofsHead(), 0o644)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]string{
		fifo:  {"not a regular file"},
		dir:   {"not a regular file"},
		text:  {text + " cannot be an image", "superblocks", "erofs, squashfs or ext4"},
		short: {short + " cannot be an image: it is truncated"},
	} {
		_, err := s.Resolve(ctx, path, sandbox.X8664)
		wantKind(t, path, err, sandbox.Invalid, want...)
	}
	_, err = s.Resolve(ctx, "./none", sandbox.X8664)
	wantKind(t, "no such file", err, sandbox.NotFound, "./none")
	for _, name := range []string{"", "A", "a b", "a..b", "-a", "a\x00b", strings.Repeat("a", 256), "base:", "a@b"} {
		_, err := s.Resolve(ctx, name, sandbox.X8664)
		wantKind(t, name, err, sandbox.Invalid)
	}
	_, err = s.Get("base", "../../etc")
	wantKind(t, "architecture", err, sandbox.Invalid)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Resolve(cancelled, imageFile(t, ext4Head()), sandbox.X8664); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
	assertNoTemporaries(t, s)
}

func TestDamagedBlob(t *testing.T) {
	ctx := context.Background()
	s := Open(filepath.Join(t.TempDir(), "images"))
	file := imageFile(t, ext4Head())
	m, err := s.Import(ctx, file, "mine", sandbox.X8664, "a test")
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.OpenDigest(ctx, m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	writable := func() {
		t.Helper()
		if err := os.Chmod(img.Path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	writable()
	f, err := os.OpenFile(img.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("flip"), 500_000); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	_, err = s.Verify(ctx, "mine", sandbox.X8664)
	wantKind(t, "a flipped byte", err, sandbox.Failure, `image "mine" is damaged`)

	if err := os.Truncate(img.Path, 600_000); err != nil {
		t.Fatal(err)
	}
	_, err = s.Resolve(ctx, "mine", sandbox.X8664)
	wantKind(t, "truncated", err, sandbox.Failure, `image "mine"`, "truncated: its ext4 file system has 1048576 bytes, and the file only 600000")
	_, err = s.OpenDigest(ctx, m.Digest)
	wantKind(t, "truncated, by digest", err, sandbox.Failure, "truncated")

	if _, err := s.Import(ctx, file, "mine", sandbox.X8664, "a test"); err != nil { // heals it
		t.Fatal(err)
	}
	if _, err := s.Verify(ctx, "mine", sandbox.X8664); err != nil {
		t.Error(err)
	}
	if err := os.Remove(img.Path); err != nil {
		t.Fatal(err)
	}
	_, err = s.Resolve(ctx, "mine", sandbox.X8664)
	wantKind(t, "missing", err, sandbox.NotFound, `image "mine"`, img.Path)
	_, err = s.OpenDigest(ctx, "sha256:../../../etc/passwd")
	wantKind(t, "no digest", err, sandbox.Invalid)
}

// A store that an earlier version has written goes on.
func TestManifestOfVersion1(t *testing.T) {
	s := newStore(t)
	m, err := s.Import(context.Background(), imageFile(t, ext4Head()), "now", sandbox.X8664, "a test")
	if err != nil {
		t.Fatal(err)
	}
	text := `{"version": 1, "name": "old", "arch": "x86_64", "digest": "` + m.Digest + `", "fs": "ext4", "size": 1048576, "created": "2025-01-02T03:04:05Z", "source": "before"}`
	if err := os.WriteFile(s.manifestPath("old", sandbox.X8664), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := s.Resolve(context.Background(), "old", sandbox.X8664)
	if err != nil || img.Digest != m.Digest || img.Config != nil {
		t.Errorf("%+v, %v", img, err)
	}
}

func TestManifestsThatCannotBeUsed(t *testing.T) {
	ctx := context.Background()
	s := Open(filepath.Join(t.TempDir(), "images"))
	good, err := s.Import(ctx, imageFile(t, ext4Head()), "good", sandbox.X8664, "a test")
	if err != nil {
		t.Fatal(err)
	}
	digest := good.Digest
	for name, text := range map[string]string{
		"empty":        "",
		"half":         `{"version": 1, "name": "half", "arch": "x86`,
		"newer":        `{"version": 3, "name": "newer", "arch": "x86_64", "digest": "` + digest + `", "fs": "ext4", "size": 1}`,
		"no-version":   `{"name": "no-version"}`,
		"other-name":   `{"version": 1, "name": "good", "arch": "x86_64", "digest": "` + digest + `", "fs": "ext4", "size": 1}`,
		"other-arch":   `{"version": 1, "name": "other-arch", "arch": "aarch64", "digest": "` + digest + `", "fs": "ext4", "size": 1}`,
		"other-fs":     `{"version": 1, "name": "other-fs", "arch": "x86_64", "digest": "` + digest + `", "fs": "btrfs", "size": 1}`,
		"no-size":      `{"version": 1, "name": "no-size", "arch": "x86_64", "digest": "` + digest + `", "fs": "ext4"}`,
		"outside":      `{"version": 1, "name": "outside", "arch": "x86_64", "digest": "sha256:../../../../etc/passwd", "fs": "ext4", "size": 1}`,
		"upper-digest": `{"version": 1, "name": "upper-digest", "arch": "x86_64", "digest": "` + strings.ToUpper(digest) + `", "fs": "ext4", "size": 1}`,
		"huge":         strings.Repeat(" ", maxManifest) + "{}",
	} {
		path := s.manifestPath(name, sandbox.X8664)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := s.Resolve(ctx, name, sandbox.X8664)
		wantKind(t, name, err, sandbox.Failure, path)
		list, problems, err := s.List()
		if err != nil || len(list) != 1 || list[0] != good || len(problems) != 1 || !strings.Contains(problems[0], path) {
			t.Errorf("%s: %v, %q, %v", name, list, problems, err)
		}
		_, err = s.Prune(never)
		wantKind(t, "prune with "+name, err, sandbox.Failure, path)
		if after, err := os.ReadFile(path); err != nil || string(after) != text {
			t.Errorf("%s was not left alone: %v", name, err)
		}
		if _, err := s.Remove(name, sandbox.X8664, never); err != nil {
			t.Errorf("%s cannot be removed: %v", name, err)
		}
	}
}

func TestPrune(t *testing.T) {
	ctx := context.Background()
	s := Open(filepath.Join(t.TempDir(), "images"))
	if freed, err := s.Prune(never); freed != 0 || err != nil {
		t.Fatalf("an empty store: %d, %v", freed, err)
	}
	blobs := map[string]sandbox.Image{}
	for name, mark := range map[string]byte{"named": 1, "used": 2, "unused": 3} {
		img, err := s.Resolve(ctx, imageFile(t, append(ext4Head(), mark)), sandbox.X8664)
		if err != nil {
			t.Fatal(err)
		}
		blobs[name] = img
		if name == "named" {
			if _, err := s.Import(ctx, img.Path, "named", sandbox.X8664, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	tmp := filepath.Join(s.blobDir(), ".blob-crashed")
	if err := os.WriteFile(tmp, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * pruneAge)
	if err := os.Chtimes(tmp, old, old); err != nil {
		t.Fatal(err)
	}
	written := filepath.Join(s.blobDir(), ".blob-written")
	if err := os.WriteFile(written, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	freed, err := s.Prune(func(digest string) bool { return digest == blobs["used"].Digest })
	if err != nil || freed == 0 {
		t.Errorf("%d, %v", freed, err)
	}
	for name, want := range map[string]bool{"named": true, "used": true, "unused": false} {
		if _, err := os.Stat(blobs[name].Path); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(written); err != nil {
		t.Errorf("what somebody writes was pruned: %v", err)
	}
	assertNoTemporaries(t, s)
}

// TestChangedWhileCopied copies from a file whose superblock was right a moment ago.
func TestChangedWhileCopied(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "images"))
	path := imageFile(t, ext4Head())
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.copyIn(context.Background(), f, func(blob) error { return nil }); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("%v", err)
	}
	assertNoTemporaries(t, s)
}
