package vm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// describe tells all about what is below a directory of the host.
func describe(t *testing.T, dir string) map[string]string {
	t.Helper()
	found, inodes := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		text := fmt.Sprintf("%o %d.%09d", st.Mode, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if inodes[st.Ino] == "" {
				inodes[st.Ino] = rel
			}
			text += fmt.Sprintf(" %d %x links %d of %q", st.Size, sha256.Sum256(data), st.Nlink, inodes[st.Ino])
			value := make([]byte, 100)
			if n, err := unix.Getxattr(path, "user.test", value); err == nil {
				text += fmt.Sprintf(" %q", value[:n])
			}
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			text += " " + target
		}
		found[rel] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// everything makes a tree with some of all that a copy must keep.
func everything(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	in := func(name string) string { return filepath.Join(dir, name) }
	long := strings.Repeat("n", 250)
	data := make([]byte, 3<<20+5)
	_, _ = rand.Read(data)
	var errs []error
	do := func(err error) { errs = append(errs, err) }
	do(os.MkdirAll(in("sub/empty"), 0o711))
	do(os.MkdirAll(in(long+"/"+long), 0o750))
	for name, content := range map[string][]byte{
		"sub/small": []byte("hello\n"), "sub/none": nil, "big": data, long + "/" + long + "/" + long: []byte("long"),
		"ünï — 日本 \t\n\x01\xff\"'$": []byte("odd"), "-rf": []byte("dash"), "sub/..x": []byte("dots"),
	} {
		do(os.WriteFile(in(name), content, 0o640))
	}
	do(os.Link(in("big"), in("sub/hard")))
	do(os.Symlink("../big", in("sub/link")))
	do(os.Symlink("/nowhere/"+strings.Repeat("x", 200), in("dangling")))
	do(unix.Mkfifo(in("fifo"), 0o622))
	do(os.Chmod(in("sub/none"), 0o400))
	if err := unix.Setxattr(in("sub/small"), "user.test", []byte("a\x00b"), 0); !errors.Is(err, unix.ENOTSUP) {
		do(err)
	}
	holes, err := os.Create(in("holes"))
	do(err)
	_, err = holes.WriteAt(data[:70_000], 40<<20)
	do(err)
	do(holes.Truncate(100 << 20))
	do(holes.Close())
	do(os.Chtimes(in("sub/small"), time.Time{}, time.Unix(987654321, 123456789)))
	do(os.Chtimes(in("sub"), time.Time{}, time.Unix(1e9, 1)))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return dir
}

func same(t *testing.T, what string, want, got map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestCopyTree(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.started("b")
	src := everything(t)
	want := describe(t, src)
	out := t.TempDir()

	h.ok("cp", src, "a:/root/")
	if got := h.sh("a", "cd /root/tree && stat -c '%a %s %h' big sub/empty && stat -c '%b' holes && readlink sub/link && cat ./-rf && stat -c '%u:%g' big"); got != "640 3145733 2\n711 4096 2\n"+strings.Split(got, "\n")[2]+"\n../big\ndash0:0" {
		t.Errorf("in the guest: %q", got)
	}
	if got := h.sh("a", "stat -c %b /root/tree/holes"); len(got) > 3 { // less than 1000 blocks of 512 bytes
		t.Errorf("the file with holes takes %s blocks in the guest", got)
	}
	h.ok("cp", "a:/root/tree", out)
	same(t, "there and back", want, describe(t, filepath.Join(out, "tree")))
	if n := allocated(t, filepath.Join(out, "tree/holes")); n > 1<<20 {
		t.Errorf("the file with holes takes %d bytes on the host", n)
	}

	h.ok("cp", "a:/root/tree", "b:/root/other")
	h.ok("cp", "b:/root/other/.", filepath.Join(out, "other"))
	same(t, "by way of another sandbox", want, describe(t, filepath.Join(out, "other")))

	// Through a pipe, as a tar archive.
	archive := filepath.Join(out, "archive")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.command("cp", "a:/root/tree", "-")
	cmd.Stdout = f
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	h.ok("exec", "b", "mkdir", "/root/piped")
	cmd = h.command("cp", "-", "b:/root/piped")
	if cmd.Stdin, err = os.Open(archive); err != nil {
		t.Fatal(err)
	}
	if r := h.wait(cmd); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	h.ok("cp", "b:/root/piped/tree", filepath.Join(out, "piped"))
	same(t, "through a pipe", want, describe(t, filepath.Join(out, "piped")))

	// Owners only when asked for.
	h.sh("a", "echo x > /root/owned; chown 12:34 /root/owned; chmod 4755 /root/owned")
	h.ok("cp", "a:/root/owned", "b:/root/plain")
	h.ok("cp", "--archive", "a:/root/owned", "b:/root/owned")
	if got := h.sh("b", "stat -c '%u:%g %a' /root/plain /root/owned"); got != "0:0 4755\n12:34 4755" {
		t.Errorf("owners: %q", got)
	}
	h.ok("cp", "a:/root/owned", out)
	if fi, err := os.Stat(filepath.Join(out, "owned")); err != nil || fi.Mode() != 0o755 {
		t.Errorf("a set-id file on the host: %v, %v", fi.Mode(), err)
	}
}

// TestCopyRules goes through the cases that docker cp documents.
func TestCopyRules(t *testing.T) {
	h := newHome(t)
	h.started("a")
	dir := t.TempDir()
	write := func(name, data string) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(data), 0o644)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("file", "1")
	write("d/x", "2")
	tree := filepath.Join(dir, "d")

	h.ok("cp", file, "a:new")
	h.ok("cp", file, "a:/tmp")
	h.ok("cp", file, "a:/tmp/named")
	h.ok("cp", tree, "a:/tmp")
	h.ok("cp", tree, "a:/tmp/fresh")
	h.ok("cp", tree+"/.", "a:/tmp/content")
	h.ok("cp", tree+"/.", "a:/tmp")
	h.sh("a", "ln -s /tmp/d /tmp/to-d; ln -s named /tmp/to-named; ln -s fresh /tmp/to-fresh")
	h.ok("cp", write("again", "3"), "a:/tmp/to-d")
	h.ok("cp", write("again", "4"), "a:/tmp/to-named")
	if got := h.sh("a", "cd /tmp; cat /new file named d/x fresh/x content/x x d/again; readlink to-named"); got != "11422223named" {
		t.Errorf("in the guest: %q", got)
	}
	h.fails(125, []string{"no directory"}, "cp", file, "a:/tmp/nothing/")
	h.fails(125, []string{"no such file"}, "cp", file, "a:/nothing/file")
	h.fails(125, []string{"is a file"}, "cp", tree, "a:/tmp/file")
	h.fails(125, []string{"/tmp/file/: not a directory"}, "cp", file, "a:/tmp/file/")
	h.sh("a", "mkdir /tmp/again")
	h.fails(125, []string{"cannot take the place"}, "cp", dir+"/again", "a:/tmp")
	h.fails(125, []string{"no such file"}, "cp", "a:/nothing", dir)
	h.fails(125, []string{"neither side"}, "cp", file, dir)
	h.fails(125, []string{"no such file"}, "cp", filepath.Join(dir, "nothing"), "a:/")

	in := filepath.Join(dir, "in")
	if err := os.Mkdir(in, 0o755); err != nil {
		t.Fatal(err)
	}
	h.ok("cp", "a:/tmp/to-named", in)
	h.ok("cp", "-L", "a:/tmp/to-named", filepath.Join(in, "followed"))
	h.ok("cp", "a:/tmp/to-fresh/", filepath.Join(in, "slash"))
	if target, err := os.Readlink(filepath.Join(in, "to-named")); target != "named" {
		t.Error(target, err)
	}
	for name, want := range map[string]string{"followed": "4", "slash/x": "2"} {
		if data, err := os.ReadFile(filepath.Join(in, name)); string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if got := h.ok("cp", "--json", "a:/tmp/file", filepath.Join(in, "json")); !strings.Contains(got, `"left_out": 0`) {
		t.Error(got)
	}
}

// TestCopyToAFullDisk fills the sandbox's disk from outside, from a source that does not end.
func TestCopyToAFullDisk(t *testing.T) {
	h := newHome(t)
	h.started("a", "--disk", "64M")
	header := make([]byte, 512) // of a file of 1 GiB
	copy(header, "huge")
	copy(header[100:], "0000644\x000000000\x000000000\x0010000000000\x0000000000000\x00        0")
	copy(header[257:], "ustar\x0000")
	sum := 0
	for _, c := range header {
		sum += int(c)
	}
	copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
	cmd := h.command("cp", "-", "a:/root")
	cmd.Stdin = io.MultiReader(bytes.NewReader(header), zeros{})
	if r := h.wait(cmd); r.code != 125 || !strings.Contains(r.stderr, "no space left on device") || !strings.Contains(r.stderr, "hint: ") {
		t.Errorf("%+v", r)
	}
	_, err := h.api().WriteFile(t.Context(), "a", "/root/f", client.WriteOptions{}, io.LimitReader(zeros{}, 1<<30))
	if err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Error(err)
	}
	if got := h.sh("a", "ls -A /root; echo usable > /root/x; cat /root/x"); got != "usable" {
		t.Errorf("afterwards: %q", got)
	}
}

// api is a client of this home's daemon.
func (h *home) api() *client.Client {
	h.t.Helper()
	c := client.New(filepath.Join(h.dir, "run", "daemon.sock"))
	h.t.Cleanup(c.Close)
	return c
}

func TestFilesAPI(t *testing.T) {
	h := newHome(t)
	h.started("a")
	c, ctx := h.api(), t.Context()
	odd := "/root/d/odd \xff\n name"
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data)

	if _, err := c.MakeDirectory(ctx, "a", "/root/d/e", 0o700, true); err != nil {
		t.Fatal(err)
	}
	f, err := c.WriteFile(ctx, "a", odd, client.WriteOptions{Mode: 0o600, Sync: true}, bytes.NewReader(data))
	if err != nil || f.Size != 1<<20 || f.Mode != "0600" || client.FileName(f) != odd {
		t.Fatal(f, err)
	}
	read := func(offset, length int64) []byte {
		t.Helper()
		r, err := c.ReadFile(ctx, "a", odd, offset, length)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, r := range [][2]int64{{0, 0}, {0, 1}, {1, 0}, {100, 1000}, {1<<20 - 1, 5}, {300_000, 500_000}} {
		end := r[0] + r[1]
		if r[1] == 0 || end > 1<<20 {
			end = 1 << 20
		}
		if got := read(r[0], r[1]); !bytes.Equal(got, data[r[0]:end]) {
			t.Errorf("%v: %d bytes, or others", r, len(got))
		}
	}
	code := func(err error) string {
		var e *client.Error
		if !errors.As(err, &e) {
			return fmt.Sprint(err)
		}
		return string(e.Code)
	}
	_, err = c.ReadFile(ctx, "a", odd, 1<<20, 1)
	_, notFound := c.ReadFile(ctx, "a", "/root/nothing", 0, 0)
	_, directory := c.ReadFile(ctx, "a", "/root", 0, 0)
	_, relative := c.StatFile(ctx, "a", "root", false)
	_, exists := c.MakeDirectory(ctx, "a", "/root/d", 0, false)
	notEmpty := c.RemoveFile(ctx, "a", "/root/d", false, false)
	taken := c.RenameFile(ctx, "a", odd, "/root/d/e", true)
	for what, got := range map[string][2]string{
		"range": {code(err), "invalid"}, "no file": {code(notFound), "not_found"}, "a directory": {code(directory), "invalid"}, "relative": {code(relative), "invalid"},
		"exists": {code(exists), "exists"}, "not empty": {code(notEmpty), "conflict"}, "taken": {code(taken), "exists"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %s, want %s", what, got[0], got[1])
		}
	}
	if r, err := c.ReadFile(ctx, "a", "/proc/version", 0, 0); err != nil {
		t.Error(err)
	} else if text, err := io.ReadAll(r); !bytes.Contains(text, []byte("Linux")) {
		t.Errorf("/proc/version: %q, %v", text, err)
	}

	// A write that breaks off changes nothing.
	broken := errors.New("broken")
	if _, err := c.WriteFile(ctx, "a", odd, client.WriteOptions{}, io.MultiReader(bytes.NewReader(data[:500_000]), failing{broken})); !errors.Is(err, broken) {
		t.Error(err)
	}
	if got := read(0, 0); !bytes.Equal(got, data) {
		t.Error("a write that broke off changed the file")
	}
	h.waitFor("the end of the temporary file", func() bool { return h.sh("a", "ls -A /root/d | grep -c agentkernel; true") == "0" })

	if err := c.RenameFile(ctx, "a", odd, "/root/d/e/plain", false); err != nil {
		t.Error(err)
	}
	if err := c.ChangeMode(ctx, "a", "/root/d/e/plain", 0o4711); err != nil {
		t.Error(err)
	}
	if f, err := c.StatFile(ctx, "a", "/root/d/e/plain", false); err != nil || f.Mode != "04711" || f.Type != "file" || f.Links != 1 {
		t.Error(f, err)
	}
	h.sh("a", "mkdir /root/many && cd /root/many && seq 1 3000 | xargs touch && ln -s 1 link")
	n := map[string]string{}
	for f, err := range c.ListFiles(ctx, "a", "/root/many") {
		if err != nil {
			t.Fatal(err)
		}
		n[f.Name] = string(f.Type)
	}
	if len(n) != 3001 || n["link"] != "symlink" || n["3000"] != "file" {
		t.Errorf("%d files", len(n))
	}
	for _, err := range c.ListFiles(ctx, "a", "/root/nothing") {
		if code(err) != "not_found" {
			t.Error(err)
		}
	}
	if err := errors.Join(c.RemoveFile(ctx, "a", "/root/many", true, false), c.RemoveFile(ctx, "a", "/root/many", true, true)); err != nil {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestWatch(t *testing.T) {
	h := newHome(t)
	h.started("a")
	h.sh("a", "mkdir -p /root/w/sub")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var begin sync.Once
	var seen []string
	for change, err := range h.api().WatchFiles(ctx, "a", "/root/w", true) {
		if err != nil {
			t.Fatal(err, seen)
		}
		begin.Do(func() {
			if change.Type != "ready" {
				t.Errorf("first comes %s", change.Type)
			}
			h.sh("a", "cd /root/w; echo 1 > f; mv f sub/g; mkdir -p new/deep; sleep 0.3; echo 2 > new/deep/x; rm sub/g; rm -r /root/w")
		})
		text := string(change.Type)
		if change.Path != nil {
			text += " " + strings.TrimPrefix(*change.Path, "/root/w")
		}
		if change.From != nil {
			text += " from " + strings.TrimPrefix(*change.From, "/root/w")
		}
		seen = append(seen, text)
	}
	all := strings.Join(seen, "\n") + "\n"
	for _, want := range []string{"created /f\n", "written /f\n", "moved /sub/g from /f\n", "created /new\n", "created /new/deep\n", "created /new/deep/x\n", "removed /sub/g\n", "gone \n"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in\n%s", want, all)
		}
	}
}
