package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/image/imagetest"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// unusual are layers with all that layers can do to each other.
func unusual(t *testing.T) [][]imagetest.Entry {
	at := func(e imagetest.Entry, sec int64, change func(*tar.Header)) imagetest.Entry {
		e.ModTime = time.Unix(sec, 500)
		if change != nil {
			change(&e.Header)
		}
		return e
	}
	file, dir, link, hard := imagetest.File, imagetest.Dir, imagetest.Symlink, imagetest.HardLink
	gone := func(name string) imagetest.Entry { return file(name, "", 0o600) }
	device := func(name string, kind byte, major, minor int64) imagetest.Entry {
		return imagetest.Entry{Header: tar.Header{Name: name, Typeflag: kind, Mode: 0o640, Gid: 6, Devmajor: major, Devminor: minor, ModTime: time.Unix(77, 0)}}
	}
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	many := []imagetest.Entry{dir("many", 0o755)}
	for i := range 500 {
		many = append(many, at(file(fmt.Sprintf("many/%03d-%s", i, strings.Repeat("n", i%100)), strings.Repeat("x", i*37), 0o644), int64(i), nil))
	}
	return [][]imagetest.Entry{
		append([]imagetest.Entry{
			at(dir(".", 0o755), 11, nil),
			at(dir("usr", 0o755), 12, nil), at(dir("usr/bin", 0o755), 13, nil), link("bin", "usr/bin"), at(file("usr/bin/tool", strings.Repeat("tool", 30_000), 0o755), 14, nil),
			at(file("usr/bin/ping", "ping", 0o755), 15, func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability} }),
			at(file("usr/bin/su", "su", 0o4755), 16, nil), at(file("usr/bin/wall", "wall", 0o2755), 17, func(h *tar.Header) { h.Gid = 5 }),
			at(dir("tmp", 0o1777), 18, nil), at(dir("home", 0o755), 19, nil),
			at(dir("home/user", 0o700), 20, func(h *tar.Header) { h.Uid, h.Gid = 1000, 1000 }),
			at(file("home/user/note", "mine", 0o600), 21, func(h *tar.Header) {
				h.Uid, h.Gid, h.PAXRecords = 100_000, 3_000_000, map[string]string{"SCHILY.xattr.user.note": "a\x00b", "SCHILY.xattr.trusted.x": "y"}
			}),
			at(dir("d", 0o755), 22, nil), at(file("d/a", "a", 0o644), 23, nil), at(file("d/b", "b", 0o644), 24, nil), at(dir("d/sub", 0o755), 25, nil), at(file("d/sub/c", "c", 0o644), 26, nil),
			at(dir("opaque", 0o755), 27, nil), at(file("opaque/old", "old", 0o644), 28, nil),
			at(file("becomes-dir", "x", 0o644), 29, nil), at(dir("becomes-file", 0o755), 30, nil), at(file("becomes-file/in", "x", 0o644), 31, nil), link("becomes-real", "d"),
			at(file("one", "linked", 0o644), 32, nil), hard("two", "one", 0o644), hard("d/three", "one", 0o644),
			at(file("empty", "", 0o000), 33, nil), at(file("name with\nnew line", "x", 0o644), 34, nil), at(file("caf\xc3\xa9", "x", 0o644), 35, nil),
			device("null", tar.TypeChar, 1, 3), device("disk", tar.TypeBlock, 8, 300), device("pipe", tar.TypeFifo, 0, 0),
			link("dangling", "no/such"), link("up", "../../../../etc"),
		}, many...),
		{
			gone(".wh.empty"), gone("d/.wh.a"), at(file("d/new", "new", 0o644), 40, nil), gone("d/.wh.sub"),
			at(dir("opaque", 0o750), 41, nil), gone("opaque/.wh..wh..opq"), at(file("opaque/new", "new", 0o644), 42, nil),
			at(dir("becomes-dir", 0o711), 43, nil), at(file("becomes-dir/in", "y", 0o644), 44, nil), gone(".wh.becomes-file"), at(file("becomes-file", "now a file", 0o644), 45, nil),
			at(file("bin/through-link", "x", 0o755), 46, nil), hard("four", "d/three", 0o644), gone("many/.wh.000-"), gone(".wh.no-such"),
		},
		{
			at(file("one", "replaced", 0o640), 50, nil), at(dir("d/sub", 0o700), 51, nil), at(file("d/sub/again", "again", 0o644), 52, nil),
			at(dir("implied", 0o755), 53, nil), at(file("implied/a/b/c", "deep", 0o644), 54, nil), at(dir("usr/bin", 0o711), 55, nil),
		},
	}
}

// The file system that we make of an image is, entry by entry, what umoci unpacks of it as root.
func TestSameAsUmoci(t *testing.T) {
	umoci, err := exec.LookPath("umoci")
	if err != nil {
		t.Skip("umoci is not installed")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can unpack devices and owners, and mount")
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{Architecture: "amd64", OS: "linux", RootFS: v1.RootFS{Type: "layers"}})
	for _, entries := range unusual(t) {
		data := imagetest.Archive(t, entries...)
		l, lerr := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, tarball.WithMediaType(types.OCILayer))
		if err = errors.Join(err, lerr); err == nil {
			img, err = mutate.AppendLayers(img, l)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err == nil {
		err = path.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "tag"}))
	}
	if err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(dir, "umoci")
	if out, err := exec.Command(umoci, "raw", "unpack", "--image", string(path)+":tag", theirs).CombinedOutput(); err != nil {
		t.Fatalf("umoci: %v\n%s", err, out)
	}
	s, o := newStore(t), pullOptions(t)
	o.Name = "x"
	if _, err := s.Load(context.Background(), string(path), nil, o); err != nil {
		t.Fatal(err)
	}
	stored, err := s.Resolve(context.Background(), "x", sandbox.X8664)
	if err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(dir, "ours")
	if err := os.Mkdir(ours, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", stored.Path, ours).CombinedOutput(); err != nil {
		t.Skipf("this host cannot mount erofs: %v: %s", err, out)
	}
	defer func() {
		if err := unix.Unmount(ours, 0); err != nil {
			t.Error(err)
		}
	}()
	want, got := entriesOf(t, theirs), entriesOf(t, ours)
	// Directories that no layer has an entry for have the time of the unpacking there, and what they are made in as well.
	for _, p := range []string{"/implied", "/implied/a", "/implied/a/b"} {
		for _, m := range []map[string]string{want, got} {
			fields := strings.Fields(m[p])
			m[p] = strings.Join(slices.Delete(fields, 2, 3), " ")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("umoci's (-) and ours (+):\n%s", diff)
	}
}

// entriesOf describes each entry of a directory tree.
func entriesOf(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		p := "/" + strings.TrimPrefix(strings.TrimPrefix(name, root), "/")
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		d := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			d += fmt.Sprintf(" %d bytes %x links %d", len(data), sha256.Sum256(data), st.Nlink)
		case unix.S_IFLNK:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			d += " -> " + target
		case unix.S_IFBLK, unix.S_IFCHR:
			d += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if first[st.Ino] == "" {
				first[st.Ino] = p
			}
			d += " same as " + first[st.Ino]
		}
		buf := make([]byte, 64<<10)
		n, err := unix.Llistxattr(name, buf)
		if err != nil && !errors.Is(err, syscall.ENOTSUP) {
			return err
		}
		attrs := strings.FieldsFunc(string(buf[:max(0, n)]), func(r rune) bool { return r == 0 })
		slices.Sort(attrs)
		for _, a := range attrs {
			n, err := unix.Lgetxattr(name, a, buf)
			if err != nil {
				return err
			}
			d += fmt.Sprintf(" %s=%q", a, buf[:n])
		}
		out[p] = d
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
