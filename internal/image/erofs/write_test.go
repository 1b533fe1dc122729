package erofs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	reader "github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"

	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// source makes contents of files.
type source struct{ buf bytes.Buffer }

func (s *source) file(data []byte) tree.Contents {
	off := s.buf.Len()
	s.buf.Write(data)
	return tree.Contents{Source: s, Off: int64(off), Size: int64(len(data))}
}

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(s.buf.Bytes()).ReadAt(p, off)
}

// sample has every kind of node, and files of every way to be stored.
func sample() *tree.Node {
	s := &source{}
	root := tree.New(tree.Time{Sec: 1_700_000_000, Nsec: 1})
	add := func(dir *tree.Node, name string, n tree.Node) *tree.Node {
		n.Mtime = tree.Time{Sec: int64(1_600_000_000 + len(name)), Nsec: uint32(len(name))}
		dir.Set(name, &n, 0)
		return &n
	}
	random := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	text := bytes.Repeat([]byte("all work and no play makes jack a dull boy\n"), 20_000)
	mixed := slices.Concat(text[:100_000], random[:200_000], text[:70_001])
	for name, data := range map[string][]byte{
		"empty": nil, "one": {1}, "small": text[:3000], "block": text[:4096], "block+1": text[:4097], "tail": random[:4096+17], "tail that does not fit": random[:2*4096-30],
		"text": text, "random": random, "mixed": mixed, "piece": text[:pieceSize], "piece+1": text[:pieceSize+1], "pieces": text[:4*pieceSize],
		"two blocks": text[:8192], "random pieces": random[:2*pieceSize], "zeros": make([]byte, 1<<20), "!before the dot": {2}, "\xff\xfe not UTF-8": {3}, "new\nline": {4},
	} {
		add(root, name, tree.Node{Mode: tree.TypeRegular | 0o644, UID: 1000, GID: 70_000, Contents: s.file(data)})
	}
	add(root, "suid", tree.Node{Mode: tree.TypeRegular | 0o6755, Contents: s.file(text[:50]), Xattrs: map[string]string{
		"security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "user.a": "1", "trusted.b": "",
	}})
	add(root, "many attributes", tree.Node{Mode: tree.TypeRegular | 0o600, Contents: s.file(text[:5000]), Xattrs: map[string]string{
		"user.long": strings.Repeat("v", 5000), "user.longer": strings.Repeat("w", 3000),
	}})
	add(root, "null", tree.Node{Mode: tree.TypeChar | 0o666, Major: 1, Minor: 3})
	add(root, "loop", tree.Node{Mode: tree.TypeBlock | 0o660, Major: 7, Minor: 300_000, GID: 6})
	add(root, "fifo", tree.Node{Mode: tree.TypeFIFO | 0o600})
	add(root, "link", tree.Node{Mode: tree.TypeSymlink | 0o777, Target: "tail"})
	add(root, "long link", tree.Node{Mode: tree.TypeSymlink | 0o777, Target: strings.Repeat("x/", 2047)})
	sub := add(root, "directory", tree.Node{Mode: tree.TypeDir | 0o1777, UID: 7})
	sub.Set("hard link", root.Child("text"), 0)
	root.Set("third name", root.Child("text"), 0)
	add(sub, "nothing", tree.Node{Mode: tree.TypeDir | 0o700})
	big := add(root, "big", tree.Node{Mode: tree.TypeDir | 0o755})
	for i := range 1000 {
		add(big, fmt.Sprintf("%d-%s", i, strings.Repeat("n", i%200)), tree.Node{Mode: tree.TypeRegular | 0o600, Contents: s.file([]byte(fmt.Sprint(i)))})
	}
	deep := root
	for range 100 {
		deep = add(deep, "d", tree.Node{Mode: tree.TypeDir | 0o755})
	}
	return root
}

func write(t testing.TB, root *tree.Node, level int) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Write(context.Background(), f, root, Options{Level: level, BuildTime: 12345}); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// wanted describes a tree as described by other readers.
func wanted(t *testing.T, root *tree.Node) map[string]string {
	t.Helper()
	out := map[string]string{}
	linked := tree.Links(root)
	for p, n := range tree.Walk(root) {
		data := n.Target
		if n.Contents.Size > 0 {
			b := make([]byte, n.Contents.Size)
			if _, err := n.Contents.Source.ReadAt(b, n.Contents.Off); err != nil {
				t.Fatal(err)
			}
			data = string(b)
		}
		nlink := max(1, linked[n])
		if n.IsDir() {
			nlink = 2
			for _, c := range n.Children() {
				if c.IsDir() {
					nlink++
				}
			}
		}
		out[p] = line(uint64(n.Mode), uint64(n.UID), uint64(n.GID), n.Mtime.Sec, int64(n.Mtime.Nsec), uint64(nlink), uint64(n.Major), uint64(n.Minor), n.Xattrs, data)
	}
	return out
}

func line(mode, uid, gid uint64, sec, nsec int64, nlink, major, minor uint64, xattrs map[string]string, data string) string {
	s := fmt.Sprintf("%o %d:%d %d.%d links %d dev %d:%d", mode, uid, gid, sec, nsec, nlink, major, minor)
	for _, k := range slices.Sorted(maps.Keys(xattrs)) {
		s += fmt.Sprintf(" %s=%q", k, xattrs[k])
	}
	return s + fmt.Sprintf(" %d bytes %x", len(data), sum(data))
}

// Read back with an independent reader of the format, as far as that goes: it knows no compression.
func TestReadBack(t *testing.T) {
	root := sample()
	f, err := os.Open(write(t, root, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := reader.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	inodes := map[string]int64{}
	err = fs.WalkDir(img, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		info, err := d.Info()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		st := info.Sys().(*reader.Stat)
		var data []byte
		switch {
		case info.Mode().IsRegular():
			data, err = fs.ReadFile(img, name)
		case info.Mode()&fs.ModeSymlink != 0:
			var target string
			target, err = fs.ReadLink(img, name)
			data = []byte(target)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p := path.Join("/", name)
		inodes[p] = st.Ino
		var major, minor uint64
		if st.Rdev != 0 {
			major, minor = uint64(st.Rdev>>8&0xfff), uint64(st.Rdev&0xff|st.Rdev>>12&^0xff)
		}
		got[p] = line(unixMode(info.Mode()), uint64(st.UID), uint64(st.GID), int64(st.Mtime), int64(st.MtimeNs), uint64(st.Nlink), major, minor, st.Xattrs, string(data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := wanted(t, root)
	for _, p := range []string{"/suid", "/directory"} { // that reader keeps no set-user-ID, set-group-ID and sticky bits
		delete(want, p)
		delete(got, p)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if inodes["/text"] != inodes["/third name"] || inodes["/text"] != inodes["/directory/hard link"] {
		t.Error("hard links are files of their own")
	}
}

func sum(data string) []byte { s := sha256.Sum256([]byte(data)); return s[:6] }

func unixMode(m fs.FileMode) uint64 {
	mode := uint64(m.Perm())
	for bit, unix := range map[fs.FileMode]uint64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= unix
		}
	}
	switch {
	case m.IsRegular():
		return mode | tree.TypeRegular
	case m.IsDir():
		return mode | tree.TypeDir
	case m&fs.ModeSymlink != 0:
		return mode | tree.TypeSymlink
	case m&fs.ModeNamedPipe != 0:
		return mode | tree.TypeFIFO
	case m&fs.ModeCharDevice != 0:
		return mode | tree.TypeChar
	}
	return mode | tree.TypeBlock
}

// The check program of the format's authors unpacks everything.
func TestFsck(t *testing.T) {
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Skip("fsck.erofs (erofs-utils) is not installed")
	}
	for _, level := range []int{0, 1, 9} {
		image := write(t, sample(), level)
		if out, err := exec.Command(fsck, "--extract", image).CombinedOutput(); err != nil {
			t.Errorf("level %d: %v\n%s", level, err, out)
		}
	}
}

func TestSameBytes(t *testing.T) {
	for _, level := range []int{0, 4} {
		first, err := os.ReadFile(write(t, sample(), level))
		if err != nil {
			t.Fatal(err)
		}
		second, err := os.ReadFile(write(t, sample(), level))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) {
			t.Errorf("level %d: the same tree gave different bytes", level)
		}
	}
}

type failing struct{ after int }

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func (f *failing) WriteAt(p []byte, _ int64) (int, error) { return f.Write(p) }

var errFull = errors.New("full")

func TestErrors(t *testing.T) {
	for _, after := range []int{0, 1 << 19, 1 << 20} {
		if err := Write(context.Background(), &failing{after}, sample(), Options{Level: 1}); !errors.Is(err, errFull) {
			t.Errorf("a disk with %d bytes: %v", after, err)
		}
	}
	root := sample()
	root.Child("text").Contents.Size *= 1000
	if err := Write(context.Background(), &failing{1 << 30}, root, Options{Level: 1}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("contents that are too short: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Write(ctx, &failing{1 << 30}, sample(), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}
