package archive

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func all(string) bool { return true }

// describe tells all that is below a directory.
func describe(t *testing.T, dir string, owners bool) map[string]string {
	t.Helper()
	found := map[string]string{}
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		text := fmt.Sprintf("%o %d.%d", st.Mode, st.Mtim.Sec, st.Mtim.Nsec)
		if owners {
			text += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d %x links %d", st.Size, sha256.Sum256(data), st.Nlink)
			if st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = rel
				}
				text += " " + first[st.Ino]
			}
			buf := make([]byte, 1000)
			if n, err := unix.Getxattr(path, "user.test", buf); err == nil {
				text += fmt.Sprintf(" %q", buf[:n])
			}
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			text += " " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			text += fmt.Sprintf(" %d", st.Rdev)
		}
		if rel != "." {
			found[rel] = text
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// sample makes a tree with some of everything.
func sample(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "src")
	in := func(name string) string { return filepath.Join(dir, name) }
	long := strings.Repeat("d", 200)
	must(t, os.MkdirAll(in("a/empty"), 0o755), os.MkdirAll(in(long+"/"+long), 0o700))
	big := make([]byte, 3<<20+17)
	rand.Read(big)
	for name, data := range map[string][]byte{
		"a/file": []byte("hello\n"), "a/none": {}, "big": big, "ü — 日本\n\t\x01 \xff": []byte("odd"), long + "/" + long + "/" + long: []byte("long"),
		"a/block": big[:512], "a/chunk": big[:64<<10], "a/chunk1": big[:64<<10+1], "a/buffer": big[:256<<10],
	} {
		must(t, os.WriteFile(in(name), data, 0o640))
	}
	must(t, os.Link(in("big"), in("a/hard")), os.Link(in("big"), in("zz")), os.Symlink("../"+strings.Repeat("x", 300), in("a/dangling")), os.Symlink("/etc", in("a/abs")))
	must(t, unix.Mkfifo(in("fifo"), 0o622), os.Chmod(in("a/file"), 0o4755), os.Chmod(in("a/none"), 0), os.Chmod(in("a/empty"), 0o1777))
	if err := unix.Setxattr(in("a/file"), "user.test", []byte("x\x00y\n=z"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	holes, err := os.Create(in("holes"))
	must(t, err)
	_, err1 := holes.WriteAt([]byte("begin"), 1<<20)
	_, err2 := holes.WriteAt(big[:100_000], 5<<20)
	must(t, err1, err2, holes.Truncate(64<<20), holes.Close())
	must(t, os.WriteFile(in("hole"), nil, 0o600), os.Truncate(in("hole"), 8<<30+1))
	must(t, os.Chtimes(in("a/file"), time.Time{}, time.Unix(-5, 250_000_000)))
	must(t, os.Chtimes(in("a/empty"), time.Time{}, time.Unix(1<<33, 1)))
	must(t, os.Chmod(in("a"), 0o555), os.Chtimes(in("a"), time.Time{}, time.Unix(1234567890, 123456789)))
	t.Cleanup(func() { os.Chmod(in("a"), 0o755) })
	return dir
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

func TestRoundTrip(t *testing.T) {
	root := os.Geteuid() == 0
	src := sample(t)
	must(t, os.Remove(filepath.Join(src, "hole"))) // 8 GiB take long to read: TestAllHole
	if root {
		must(t, unix.Mknod(filepath.Join(src, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), os.Lchown(filepath.Join(src, "a/dangling"), 7, 8), os.Chown(filepath.Join(src, "holes"), 3<<20, 5))
	}
	var buf bytes.Buffer
	if w, err := Pack(&buf, src, PackOptions{Name: "dst", KeepXattr: all}); err != nil || w.Count != 0 {
		t.Fatal(w, err)
	}
	if buf.Len() > 20<<20 {
		t.Errorf("the archive has %d bytes: holes are in it", buf.Len())
	}
	archive := buf.Bytes()
	dir := t.TempDir()
	for range 2 { // also over what is there
		if w, err := Unpack(bytes.NewReader(archive), dir, UnpackOptions{SetID: true, Owner: root, Devices: root, KeepXattr: all}); err != nil || w.Count != 0 {
			t.Fatal(w, err)
		}
		if diff := cmp.Diff(describe(t, src, root), describe(t, filepath.Join(dir, "dst"), root)); diff != "" {
			t.Error(diff)
		}
	}
	if n, was := blocks(t, filepath.Join(dir, "dst/holes")), blocks(t, filepath.Join(src, "holes")); n > was+64<<10 {
		t.Errorf("a file of %d bytes on disk takes %d", was, n)
	}
	os.Chmod(filepath.Join(dir, "dst/a"), 0o755)

	// What a guest sends to a user: no set-id bits, no devices, own files.
	dir = t.TempDir()
	w, err := Unpack(bytes.NewReader(archive), dir, UnpackOptions{})
	if want := map[bool]int{true: 1}[root]; err != nil || w.Count != want {
		t.Fatal(w, err)
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dir, "dst/a/file"), &st))
	if st.Mode&0o7777 != 0o755 || int(st.Uid) != os.Geteuid() {
		t.Errorf("mode %o, owner %d", st.Mode, st.Uid)
	}
	os.Chmod(filepath.Join(dir, "dst/a"), 0o755)

	// GNU tar agrees.
	gnu, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("there is no tar")
	}
	dir = t.TempDir()
	cmd := exec.Command(gnu, "--xattrs", "-xpf", "-", "-C", dir)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("tar: %v\n%s", err, out)
	}
	if diff := cmp.Diff(describe(t, src, root), describe(t, filepath.Join(dir, "dst"), root)); diff != "" {
		t.Error("as tar sees it:", diff)
	}
	if n := blocks(t, filepath.Join(dir, "dst/holes")); n > 1<<20 {
		t.Errorf("tar writes %d bytes for a file with holes", n)
	}
	os.Chmod(filepath.Join(dir, "dst/a"), 0o755)
	for _, format := range []string{"gnu", "pax", "ustar"} {
		args := []string{"--format", format, "-cf", "-", "-C", src, "big", "a/block", "a/hard", "a/abs"}
		if format != "ustar" {
			args = slices.Insert(args, 0, "-S", "--sort=name")
			args = append(args, "holes")
		}
		out, err := exec.Command(gnu, args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if _, err := Unpack(bytes.NewReader(out), dir, UnpackOptions{}); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		for _, name := range args[slices.Index(args, src)+1:] {
			a, _ := os.ReadFile(filepath.Join(src, name))
			b, err := os.ReadFile(filepath.Join(dir, name))
			if name != "a/abs" && (err != nil || !bytes.Equal(a, b)) {
				t.Errorf("%s: %s is not what it was: %v", format, name, err)
			}
		}
	}
}

// TestAllHole looks at the archive alone: reading 8 GiB of zeros takes long.
func TestAllHole(t *testing.T) {
	src := sample(t)
	var buf bytes.Buffer
	if _, err := Pack(&buf, filepath.Join(src, "hole"), PackOptions{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	h, err := tar.NewReader(&buf).Next()
	if err != nil || h.Size != 8<<30+1 || h.Name != "x" || buf.Len() > 4096 {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestPackTop(t *testing.T) {
	src := sample(t)
	must(t, os.Symlink("a", filepath.Join(src, "link")), os.Symlink("a/file", filepath.Join(src, "flink")))
	for name, tc := range map[string]struct {
		path   string
		follow bool
		want   []string // the first members
	}{
		"file":         {"a/file", false, []string{"file 0"}},
		"directory":    {"a/empty", false, []string{"empty/ 5"}},
		"content":      {"a/empty/.", false, []string{"./ 5"}},
		"link":         {"link", false, []string{"link 2"}},
		"followed":     {"flink", true, []string{"flink 0"}},
		"link slash":   {"link/", false, []string{"link/ 5"}},
		"link content": {"link/.", false, []string{"./ 5"}},
	} {
		path := filepath.Join(src, "x")[:len(src)+1] + tc.path
		var buf bytes.Buffer
		if _, err := Pack(&buf, path, PackOptions{Name: Base(path), Follow: tc.follow}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r := tar.NewReader(&buf)
		for _, want := range tc.want {
			h, err := r.Next()
			if err != nil || fmt.Sprintf("%s %c", h.Name, h.Typeflag) != want {
				t.Errorf("%s: %+v, %v, want %s", name, h, err, want)
			}
		}
	}
	if _, err := Pack(io.Discard, src+"/nothing", PackOptions{Name: "x"}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Pack(io.Discard, src, PackOptions{Name: "../x"}); err == nil {
		t.Error("a member with a name outside")
	}
}

type entry struct {
	h    tar.Header
	data string
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.h.Size = int64(len(e.data))
		if e.h.Mode == 0 {
			e.h.Mode = 0o755
		}
		if err := w.WriteHeader(&e.h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name, data string) entry { return entry{tar.Header{Name: name, Typeflag: tar.TypeReg}, data} }
func link(kind byte, name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: kind, Linkname: to}, ""}
}
func dir(name string) entry { return entry{tar.Header{Name: name, Typeflag: tar.TypeDir}, ""} }

// TestHostile unpacks what a guest may send, beside a secret that no member may touch.
func TestHostile(t *testing.T) {
	big := strings.Repeat("pwned", 100_000)
	for name, tc := range map[string]struct {
		archive []byte
		fails   bool
		has     map[string]string // what is below the target afterwards, beside what was there
	}{
		"dot dot":                   {pack(t, file("../secret", "pwned")), true, nil},
		"dot dot within":            {pack(t, file("a/../../secret", "pwned")), true, nil},
		"absolute":                  {pack(t, file("/secret", "x")), false, map[string]string{"secret": "x"}},
		"symlink, then through it":  {pack(t, link(tar.TypeSymlink, "l", ".."), file("l/secret", "pwned")), true, nil},
		"symlink, then a directory": {pack(t, link(tar.TypeSymlink, "l", ".."), dir("l"), file("l/secret", "pwned")), true, nil},
		"symlink, then that file":   {pack(t, link(tar.TypeSymlink, "l", "../secret"), file("l", "x")), false, map[string]string{"l": "x"}},
		"symlink, then that, large": {pack(t, link(tar.TypeSymlink, "l", "../secret"), file("l", big)), false, map[string]string{"l": big}},
		"chain of symlinks":         {pack(t, link(tar.TypeSymlink, "a", "."), link(tar.TypeSymlink, "a/b", ".."), file("a/b/secret", "pwned")), true, nil},
		"host's symlink":            {pack(t, file("out/secret", "pwned")), true, nil},
		"host's symlink, replaced":  {pack(t, file("out", "x")), false, map[string]string{"out": "x"}},
		"hard link outside":         {pack(t, link(tar.TypeLink, "l", "../secret"), file("l", "pwned")), true, nil},
		"hard link, absolute":       {pack(t, link(tar.TypeLink, "l", "/etc/passwd")), true, nil},
		"hard link through a link":  {pack(t, link(tar.TypeLink, "l", "out/secret"), file("l", "pwned")), true, nil},
		"hard link, then written":   {pack(t, link(tar.TypeLink, "l", "kept"), file("l", "x")), false, map[string]string{"l": "x"}},
		"hard link to itself":       {pack(t, file("l", "x"), link(tar.TypeLink, "l", "l")), false, map[string]string{"l": "x"}},
		"hard link to the target":   {pack(t, link(tar.TypeLink, "l", ".")), true, nil},
		"device":                    {pack(t, entry{tar.Header{Name: "dev", Typeflag: tar.TypeBlock, Devmajor: 8}, ""}), false, nil},
		"file over a directory":     {pack(t, dir("d"), file("d", "x")), true, nil},
		"directory over a file":     {pack(t, file("f", "x"), dir("f")), true, map[string]string{"f": "x"}},
		"member of a file":          {pack(t, file("f", "x"), file("f/g", "y")), true, map[string]string{"f": "x"}},
		"file as the target":        {pack(t, file(".", "x")), true, nil},
		"long name":                 {pack(t, file(strings.Repeat("a/", 3000)+"x", "x")), true, nil},
		"long component":            {pack(t, file(strings.Repeat("a", 300), "x")), true, nil},
		"cut within a file":         {pack(t, file("f", big))[:100_000], true, nil},
		"cut within a header":       {pack(t, file("f", "x"))[:300], true, nil},
		"garbage":                   {bytes.Repeat([]byte("garbage!"), 1000), true, nil},
		"nothing":                   {nil, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			target := filepath.Join(base, "target")
			secret := filepath.Join(base, "secret")
			must(t, os.Mkdir(target, 0o755), os.WriteFile(secret, []byte("secret"), 0o600), os.Symlink("..", filepath.Join(target, "out")), os.WriteFile(filepath.Join(target, "kept"), []byte("kept"), 0o600))
			_, err := Unpack(bytes.NewReader(tc.archive), target, UnpackOptions{})
			if (err != nil) != tc.fails {
				t.Errorf("%v", err)
			}
			if data, err := os.ReadFile(secret); err != nil || string(data) != "secret" {
				t.Errorf("the secret: %q, %v", data, err)
			}
			if data, err := os.ReadFile(filepath.Join(target, "kept")); err != nil || string(data) != "kept" {
				t.Errorf("what was there: %q, %v", data, err)
			}
			if entries, _ := os.ReadDir(base); len(entries) != 2 {
				t.Errorf("beside the target: %v", entries)
			}
			found := map[string]string{}
			entries, _ := os.ReadDir(target)
			for _, e := range entries {
				if e.Type().IsRegular() && e.Name() != "kept" {
					data, _ := os.ReadFile(filepath.Join(target, e.Name()))
					found[e.Name()] = string(data)
				}
			}
			if !maps.Equal(found, tc.has) {
				t.Errorf("there is %d files %.100q, want %.100q", len(found), fmt.Sprint(found), fmt.Sprint(tc.has))
			}
		})
	}
}

// TestOnly unpacks members that were not asked for.
func TestOnly(t *testing.T) {
	for name, archive := range map[string][]byte{
		"another": pack(t, dir("a"), file("a/b", "x"), file(".profile", "pwned")),
		"link":    pack(t, dir("a"), link(tar.TypeLink, "a/b", "kept")),
	} {
		target := t.TempDir()
		must(t, os.WriteFile(filepath.Join(target, "kept"), []byte("kept"), 0o600))
		_, err := Unpack(bytes.NewReader(archive), target, UnpackOptions{Only: "a"})
		var wrong *NameError
		if entries, _ := os.ReadDir(target); !errors.As(err, &wrong) || len(entries) != 2 {
			t.Errorf("%s: %v, %v", name, err, entries)
		}
	}
}

// members yields an archive of one file and n times the same member.
type members struct {
	first, each []byte
	n, at       int
	part        []byte
}

func (m *members) Read(p []byte) (int, error) {
	for len(m.part) == 0 {
		switch {
		case m.at == 0:
			m.part = m.first
		case m.at > m.n:
			return 0, io.EOF
		default:
			m.part = m.each
		}
		m.at++
	}
	n := copy(p, m.part)
	m.part = m.part[n:]
	return n, nil
}

// TestMemory unpacks more members, and longer headers, than may stay in memory.
func TestMemory(t *testing.T) {
	end := 2 * blockSize
	body := func(b []byte) []byte { return b[:len(b)-end] }
	long := link(tar.TypeLink, "f", "f")
	long.h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 900_000)}
	for name, tc := range map[string]*members{
		"many":  {first: body(pack(t, file("f", "x"))), each: body(pack(t, link(tar.TypeLink, "f", "f"))), n: 50_000},
		"long":  {first: body(pack(t, file("f", "x"))), each: body(pack(t, long)), n: 50},
		"dirs":  {first: body(pack(t, file("f", "x"))), each: body(pack(t, dir("d"), dir("e"))), n: 5_000},
		"types": {first: body(pack(t, file("f", "x"))), each: body(pack(t, entry{tar.Header{Name: "dev", Typeflag: tar.TypeChar}, ""})), n: 50_000},
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		w, err := Unpack(tc, t.TempDir(), UnpackOptions{KeepXattr: all})
		runtime.GC()
		runtime.ReadMemStats(&after)
		if err != nil || len(w.Text) > maxWarnings {
			t.Errorf("%s: %d warnings, %v", name, len(w.Text), err)
		}
		if grown := int64(after.Sys) - int64(before.Sys); grown > 64<<20 {
			t.Errorf("%s: it took %d MiB", name, grown>>20)
		}
	}
}

// TestOrder puts members into directories that were left before, and into ones that no member makes.
func TestOrder(t *testing.T) {
	old := time.Unix(1e9, 5e8)
	d := dir("a")
	d.h.ModTime, d.h.Mode, d.h.Format = old, 0o555, tar.FormatPAX
	target := t.TempDir()
	_, err := Unpack(bytes.NewReader(pack(t, d, file("b/c/x", "1"), file("a/x", "2"), file("c", "3"), file("a/y", "4"))), target, UnpackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(target, "a"))
	if err != nil || !fi.ModTime().Equal(old) || fi.Mode().Perm() != 0o555 {
		t.Error(fi.ModTime(), fi.Mode(), err)
	}
	if data, err := os.ReadFile(filepath.Join(target, "b/c/x")); string(data) != "1" {
		t.Error(err)
	}
}

// TestInterrupted checks that a stream which breaks leaves nothing half.
func TestInterrupted(t *testing.T) {
	target := t.TempDir()
	must(t, os.WriteFile(filepath.Join(target, "f"), []byte("old"), 0o644))
	broken := errors.New("broken")
	archive := pack(t, file("g", "whole"), file("f", strings.Repeat("x", 1<<20)))
	r := io.MultiReader(bytes.NewReader(archive[:800<<10]), iotestErr{broken})
	if _, err := Unpack(r, target, UnpackOptions{}); !errors.Is(err, broken) {
		t.Error(err)
	}
	entries, _ := os.ReadDir(target)
	if data, _ := os.ReadFile(filepath.Join(target, "f")); string(data) != "old" || len(entries) != 2 {
		t.Errorf("%d bytes; %v", len(data), entries)
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

// FuzzUnpack unpacks anything with the options of the host, and FuzzUnpackInGuest with those of the guest agent.
func FuzzUnpack(f *testing.F) { fuzzUnpack(f, UnpackOptions{}) }

func FuzzUnpackInGuest(f *testing.F) {
	fuzzUnpack(f, UnpackOptions{Owner: os.Geteuid() == 0, SetID: true, Devices: os.Geteuid() == 0, KeepXattr: func(string) bool { return true }})
}

func fuzzUnpack(f *testing.F, o UnpackOptions) {
	f.Add(pack(f, dir("a"), file("a/b", "x"), link(tar.TypeSymlink, "l", ".."), file("l/x", "y")))
	f.Add(pack(f, file("x", "x"), link(tar.TypeLink, "y", "x"), entry{tar.Header{Name: "f", Typeflag: tar.TypeFifo}, ""}))
	var buf bytes.Buffer
	w := newWriter(&buf, nil)
	m := &member{name: "holes", kind: typeFile, mode: 0o644, size: 1 << 20, data: []extent{{4096, 512}, {1 << 20, 0}}, xattrs: []Xattr{{"user.a", "b"}}}
	for _, err := range []error{w.header(m), w.zeros(512), w.close()} {
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		target := filepath.Join(base, "target")
		must(t, os.Mkdir(target, 0o755), os.WriteFile(filepath.Join(base, "secret"), []byte("secret"), 0o600))
		r := tar.NewReader(bytes.NewReader(data))
		for h, err := r.Next(); err == nil; h, err = r.Next() {
			if h.Size > 1<<24 && sparse(h) {
				t.Skip("large files with holes only take time")
			}
		}
		_, _ = Unpack(bytes.NewReader(data), target, o)
		if data, err := os.ReadFile(filepath.Join(base, "secret")); err != nil || string(data) != "secret" {
			t.Errorf("the secret: %q, %v", data, err)
		}
		if entries, _ := os.ReadDir(base); len(entries) != 2 {
			t.Errorf("beside the target: %v", entries)
		}
		_ = filepath.WalkDir(target, func(path string, d fs.DirEntry, _ error) error { // for t.TempDir to remove it
			if d != nil && d.IsDir() {
				_ = os.Chmod(path, 0o700)
			}
			return nil
		})
	})
}
