package project

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func writeFile(t testing.TB, path, data string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// git runs git away from the user's own configuration, and skips the test where there is none.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %q: %v", args, err)
	}
	return string(out)
}

// tool finds a program of e2fsprogs, and skips the test where it is not installed.
func tool(t testing.TB, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	t.Skipf("%s is not installed", name)
	return ""
}

func mustPack(t testing.TB, dir, dst string) Report {
	t.Helper()
	r, err := Pack(context.Background(), dir, dst, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fsck packs dir without taking lost+found out, which e2fsck wants to see, and lets it judge the rest.
func fsck(t *testing.T, dir string) {
	t.Helper()
	e2fsck := tool(t, "e2fsck")
	top, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	_, image, err := convert(context.Background(), top, out, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.finish(); err != nil {
		t.Fatal(err)
	}
	msg, err := exec.Command(e2fsck, "-fn", out.Name()).CombinedOutput()
	var complaints []string
	for line := range strings.Lines(string(msg)) {
		// tar2ext4 leaves the bits clear that stand for inodes beyond the last one. The kernel looks at them when it makes a
		// file, which in a read-only file system it never does.
		padding := strings.HasPrefix(line, "Padding at end of inode bitmap is not set")
		if line != "\n" && !padding && !strings.HasPrefix(line, "Pass ") && !strings.HasPrefix(line, "e2fsck 1.") && !strings.HasPrefix(line, out.Name()) {
			complaints = append(complaints, line)
		}
	}
	if len(complaints) > 0 || len(msg) == 0 {
		t.Errorf("e2fsck: %v\n%s", err, msg)
	}
}

// unpack reads an image back with debugfs.
func unpack(t *testing.T, image string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(tool(t, "debugfs"), "-R", "rdump / "+dir, image)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, msg)
	}
	return dir
}

// describe lists a tree: type, permissions, times, contents. Of directories it has the type alone: debugfs writes into them.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch info.Mode().Type() {
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			found[rel] = "→ " + target
			return err
		case fs.ModeDir:
			found[rel] = "directory"
		case 0:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			found[rel] = fmt.Sprintf("%v %d %q", info.Mode(), info.ModTime().Unix(), data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestPackKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("n", 255)
	writeFile(t, filepath.Join(dir, "file"), "contents\n", 0o644)
	writeFile(t, filepath.Join(dir, "run.sh"), "#!/bin/sh\n", 0o755)
	writeFile(t, filepath.Join(dir, "sub/secret"), "s", 0o600)
	writeFile(t, filepath.Join(dir, "empty"), "", 0o444)
	writeFile(t, filepath.Join(dir, long, long, "deep"), "d", 0o644)
	writeFile(t, filepath.Join(dir, "exact"), strings.Repeat("e", 8192), 0o644)
	random := make([]byte, 300<<10)
	_, _ = rand.Read(random)
	writeFile(t, filepath.Join(dir, "random"), string(random), 0o644)
	writeFile(t, filepath.Join(dir, "holes"), "", 0o644)
	if err := errors.Join(
		os.Truncate(filepath.Join(dir, "holes"), 32<<20),
		os.MkdirAll(filepath.Join(dir, "empty-dir"), 0o700),
		os.Symlink("sub/secret", filepath.Join(dir, "link")),
		os.Symlink("/etc/passwd", filepath.Join(dir, "absolute")),
		os.Symlink("../../outside", filepath.Join(dir, "sub/outside")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Symlink(strings.Repeat("t", 59), filepath.Join(dir, "t59")),
		os.Symlink(strings.Repeat("t", 60), filepath.Join(dir, "t60")),
		os.Symlink(strings.Repeat("t", 4000), filepath.Join(dir, "t4000")),
		os.Symlink(".", filepath.Join(dir, "sub/self")),
		os.Link(filepath.Join(dir, "file"), filepath.Join(dir, "sub/hard")),
		os.Chtimes(filepath.Join(dir, "file"), time.Time{}, time.Unix(1234567890, 123456789)),
		os.Chtimes(filepath.Join(dir, "empty"), time.Time{}, time.Unix(-5, 0)), // becomes 0
	); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	r := mustPack(t, dir, image)
	want := Report{Files: 8, Dirs: 4, Symlinks: 8, HardLinks: 1, Bytes: 9 + 10 + 1 + 0 + 1 + 8192 + 300<<10 + 32<<20, ImageBytes: r.ImageBytes}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
	if w := r.Warnings(); len(w) != 0 {
		t.Errorf("warnings: %q", w)
	}
	info, err := os.Stat(image)
	if err != nil || info.Size() != r.ImageBytes || info.Size()%4096 != 0 || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if n, err := disk.AllocatedBytes(image); err != nil || n > 2<<20 {
		t.Errorf("the image takes %d bytes of the host: zeros were written (%v)", n, err)
	}
	fsck(t, dir)
	original, got := describe(t, dir), describe(t, unpack(t, image))
	original["empty"] = "-r--r--r-- 0 \"\""
	if diff := cmp.Diff(original, got); diff != "" {
		t.Errorf("what is in the image (-want +got):\n%s", diff)
	}
	debugfs := tool(t, "debugfs")
	stat := func(path string) string {
		out, err := exec.Command(debugfs, "-R", "stat "+path, image).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	for path, wants := range map[string][]string{
		"/file":      {"Links: 2", "User:     0   Group:     0", "mtime: 0x499602d2:1d6f3454"},
		"/sub/hard":  {"Links: 2"},
		"/empty-dir": {"Mode:  0700"},
	} {
		for _, want := range wants {
			if s := stat(path); !strings.Contains(s, want) {
				t.Errorf("%s lacks %q:\n%s", path, want, s)
			}
		}
	}
}

func TestPackIsDeterministic(t *testing.T) {
	var images [][]byte
	for i := range 2 {
		dir := t.TempDir()
		names := []string{"b", "a/x", "c", "a/y", "Z"}
		if i == 1 {
			slices.Reverse(names)
		}
		for _, name := range names {
			writeFile(t, filepath.Join(dir, name), "data of "+name, 0o644)
		}
		for _, name := range append(names, "a", ".") {
			if err := os.Chtimes(filepath.Join(dir, name), time.Now(), time.Unix(1e9, 5)); err != nil {
				t.Fatal(err)
			}
		}
		image := filepath.Join(t.TempDir(), "image")
		mustPack(t, dir, image)
		data, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, data)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same tree gave two images")
	}
}

func TestPackLeavesOut(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "kept"), "k", 0o644)
	writeFile(t, filepath.Join(dir, lostFound), "a file of that name", 0o644)
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "huge"), "", 0o644)
	if err := os.Truncate(filepath.Join(dir, "huge"), maxFile+1); err != nil {
		t.Fatal(err)
	}
	if l, err := net.Listen("unix", filepath.Join(dir, "s")); err == nil {
		defer l.Close()
	} else {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	r := mustPack(t, dir, image)
	if r.Files != 1 || r.Special != 2 || r.Unfit.Count != 2 || !slices.Equal(r.Unfit.Examples, []string{"huge", lostFound}) {
		t.Errorf("%+v", r)
	}
	if diff := cmp.Diff([]string{
		`2 files and directories were left out: ext4 cannot hold them: "huge", "lost+found"`,
		`2 sockets, FIFOs or devices were left out`,
	}, r.Warnings()); diff != "" {
		t.Error(diff)
	}
	if got := describe(t, unpack(t, image)); len(got) != 2 {
		t.Errorf("the image has %v", got)
	}
}

func TestPackKeepsTheProjectsOwnLostFound(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, lostFound, "x"), "x", 0o644)
	image := filepath.Join(t.TempDir(), "image")
	mustPack(t, dir, image)
	if got := describe(t, unpack(t, image)); got[lostFound+"/x"] == "" {
		t.Errorf("the image has %v", got)
	}
}

// TestPackUnreadable packs as an ordinary user, for whom there are files that cannot be read.
func TestPackUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root can read everything")
	}
	dir := t.TempDir()
	for i := range 30 {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("f%02d", i)), "x", 0o000)
	}
	writeFile(t, filepath.Join(dir, "closed/inside"), "x", 0o644)
	if err := os.Chmod(filepath.Join(dir, "closed"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "closed"), 0o755) })
	r := mustPack(t, dir, filepath.Join(t.TempDir(), "image"))
	if r.Unreadable.Count != 31 || len(r.Unreadable.Examples) != maxExamples || r.Files != 0 || r.Dirs != 1 {
		t.Errorf("%+v", r)
	}
	if w := r.Warnings(); len(w) != 1 || !strings.HasSuffix(w[0], "and 11 more") || !strings.HasPrefix(w[0], "31 files and directories were left out: they cannot be read: \"closed\", \"f00\"") {
		t.Errorf("%q", w)
	}
}

func TestPackErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	writeFile(t, file, "x", 0o644)
	out := t.TempDir()
	for _, tc := range []struct {
		dir  string
		kind sandbox.Kind
	}{{filepath.Join(dir, "none"), sandbox.NotFound}, {file, sandbox.Invalid}} {
		if _, err := Pack(context.Background(), tc.dir, filepath.Join(out, "image"), Options{}); sandbox.KindOf(err) != tc.kind {
			t.Errorf("%s: %v", tc.dir, err)
		}
	}
	if _, err := Pack(context.Background(), dir, filepath.Join(out, "none", "image"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory for the image: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Pack(ctx, dir, filepath.Join(out, "image"), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestPackStops cancels in the middle of a large file, at a moment that the test chooses.
func TestPackStops(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	for i := range 600 {
		writeFile(t, filepath.Join(dir, fmt.Sprint(i)), "x", 0o644)
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Pack(ctx, dir, filepath.Join(out, "image"), Options{Progress: func(r Report) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestPackWhileFilesChange changes the tree from within the walk: progress is told after each 256 files, in order.
func TestPackWhileFilesChange(t *testing.T) {
	dir := t.TempDir()
	for i := range 256 {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("a%03d", i)), "x", 0o644)
	}
	outside := t.TempDir()
	writeFile(t, filepath.Join(outside, "secret"), "secret", 0o644)
	for _, name := range []string{"z-gone", "z-swapped", "z-dir/inside", "z-device"} {
		writeFile(t, filepath.Join(dir, name), "before", 0o644)
	}
	image := filepath.Join(t.TempDir(), "image")
	r, err := Pack(context.Background(), dir, image, Options{Progress: func(r Report) {
		if r.Files != 256 {
			return
		}
		for _, name := range []string{"z-gone", "z-swapped", "z-dir", "z-device"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
		for link, target := range map[string]string{"z-swapped": filepath.Join(outside, "secret"), "z-dir": outside, "z-device": "/dev/zero"} {
			if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
				t.Error(err)
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	// The names had been listed before: what is now a link is packed as one, and never followed.
	if r.Files != 256 || r.Symlinks != 3 || r.Dirs != 0 || !slices.Equal(r.Changed.Examples, []string{"z-gone"}) {
		t.Errorf("%+v", r)
	}
	fsck(t, dir)
}

// TestOpenedFileIsTheOneSeen swaps between the look and the opening, where only a second look can tell.
func TestOpenedFileIsTheOneSeen(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), "a", 0o644)
	writeFile(t, filepath.Join(dir, "d1/x"), "x", 0o644)
	top, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	file, err := top.Lstat("a")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := top.Lstat("d1")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")), os.Symlink("b2", filepath.Join(dir, "a")), os.WriteFile(filepath.Join(dir, "b2"), nil, 0o644),
		os.Rename(filepath.Join(dir, "d1"), filepath.Join(dir, "d2")), os.Symlink(".", filepath.Join(dir, "d1")),
	); err != nil {
		t.Fatal(err)
	}
	w := newWalker(context.Background(), top, io.Discard, &Report{}, nil)
	if err := errors.Join(w.file(top, "a", "a", file), w.subdir(top, "d1", "d1", sub, scope{repo: &repo{}})); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.report.Changed.Examples, []string{"a", "d1"}) || w.report.Files+w.report.Dirs != 0 {
		t.Errorf("%+v", w.report)
	}
}

func TestPackOddNames(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"new\nline", "\xff\xfe", " ", "-rf", "a\\b", "*", "é", ".wh.x", ".wh..wh..opq", "PaxHeaders.0", "tab\t", "\x01", "a:b"} {
		writeFile(t, filepath.Join(dir, name), name, 0o644)
	}
	r := mustPack(t, dir, filepath.Join(t.TempDir(), "image"))
	if r.Files != 13 || r.Dirs != 0 || len(r.Warnings()) != 0 {
		t.Errorf("%+v", r)
	}
	fsck(t, dir)
}

func TestPackDeepTree(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("d", 99)
	const depth = 60 // 6000 bytes: longer than any path that can be given to the kernel
	for range depth {
		if err := root.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		sub, err := root.OpenRoot(name)
		if err != nil {
			t.Fatal(err)
		}
		_ = root.Close()
		root = sub
	}
	_ = root.Close()
	r := mustPack(t, dir, filepath.Join(t.TempDir(), "image"))
	if r.Dirs != maxPath/100 || r.Unfit.Count != 1 {
		t.Errorf("%d directories, %d unfit", r.Dirs, r.Unfit.Count)
	}
	fsck(t, dir)
}

func TestDiskFull(t *testing.T) {
	full := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a small file system here: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", full).Run() })
	dir := t.TempDir()
	random := make([]byte, 1<<20)
	_, _ = rand.Read(random)
	writeFile(t, filepath.Join(dir, "random"), string(random), 0o644)
	_, err := Pack(context.Background(), dir, filepath.Join(full, "image"), Options{})
	if sandbox.KindOf(err) != sandbox.Unavailable || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want an error that says that the disk is full", err)
	}
	if entries, err := os.ReadDir(full); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func BenchmarkPack(b *testing.B) {
	dir := b.TempDir()
	for i := range 10_000 {
		writeFile(b, filepath.Join(dir, fmt.Sprintf("dir%d/sub%d/file%d.go", i%20, i%200, i)), strings.Repeat("package x\n", i%1000), 0o644)
	}
	writeFile(b, filepath.Join(dir, ".gitignore"), "*.o\nnode_modules/\n/build\n**/target/\n!keep\n", 0o644)
	image := filepath.Join(b.TempDir(), "image")
	for b.Loop() {
		b.SetBytes(mustPack(b, dir, image).Bytes)
	}
}
