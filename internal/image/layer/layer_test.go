package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/agentkernel/agentkernel/internal/image/tree"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// archive writes a tar archive. A header with contents is a file.
func archive(t testing.TB, entries ...any) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		var h tar.Header
		body := ""
		switch e := e.(type) {
		case tar.Header:
			h = e
		case string: // "dir/", "link -> target", "hard => target", "file=contents"
			h, body = parse(e)
		}
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func parse(s string) (tar.Header, string) {
	h := tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1000, 0)}
	if name, target, ok := strings.Cut(s, " -> "); ok {
		h.Typeflag, h.Name, h.Linkname, h.Mode = tar.TypeSymlink, name, target, 0o777
		return h, ""
	}
	if name, target, ok := strings.Cut(s, " => "); ok {
		h.Typeflag, h.Name, h.Linkname = tar.TypeLink, name, target
		return h, ""
	}
	if strings.HasSuffix(s, "/") {
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, s, 0o755
		return h, ""
	}
	name, body, _ := strings.Cut(s, "=")
	h.Name, h.Size = name, int64(len(body))
	return h, body
}

// merge merges layers, each a list of entries.
func merge(t *testing.T, layers ...[]any) (*tree.Node, error) {
	t.Helper()
	root := tree.New(tree.Time{})
	budget := NewBudget(Limits{})
	for i, entries := range layers {
		l, err := Scan(context.Background(), bytes.NewReader(archive(t, entries...)), t.TempDir(), budget, "")
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = l.Close() })
		if err := l.Merge(root, i); err != nil {
			return nil, err
		}
	}
	return root, nil
}

// list describes a tree: a line a path, with the contents of files.
func list(t *testing.T, root *tree.Node) []string {
	t.Helper()
	var lines []string
	names := map[*tree.Node]string{}
	for p, n := range tree.Walk(root) {
		if p == "/" {
			continue
		}
		line := p
		switch n.Type() {
		case tree.TypeDir:
			line += "/"
		case tree.TypeSymlink:
			line += " -> " + n.Target
		case tree.TypeRegular:
			b := make([]byte, n.Contents.Size)
			if len(b) > 0 {
				if _, err := n.Contents.Source.ReadAt(b, n.Contents.Off); err != nil {
					t.Fatal(err)
				}
			}
			line += "=" + string(b)
		default:
			line += fmt.Sprintf(" %o %d:%d", n.Mode, n.Major, n.Minor)
		}
		if first := names[n]; first != "" && !n.IsDir() {
			line = p + " => " + first
		} else {
			names[n] = p
		}
		lines = append(lines, line)
	}
	return lines
}

func TestMerge(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]any
		want   []string
	}{
		"whiteout of a file":                            {[][]any{{"a=1", "b=2"}, {".wh.a"}}, []string{"/b=2"}},
		"whiteout of a tree":                            {[][]any{{"d/", "d/e/", "d/e/f=1", "x=1"}, {".wh.d"}}, []string{"/x=1"}},
		"whiteout of what is missing":                   {[][]any{{"a=1"}, {".wh.b", "no/where/.wh.c"}}, []string{"/a=1"}},
		"whiteout after its own layer's file":           {[][]any{{"a=1"}, {"a=2", ".wh.a"}}, []string{"/a=2"}},
		"whiteout before its own layer's tree":          {[][]any{{"d/", "d/old=1"}, {".wh.d", "d/", "d/new=2"}}, []string{"/d/", "/d/new=2"}},
		"whiteout after its own layer's tree":           {[][]any{{"d/", "d/old=1"}, {"d/", "d/new=2", ".wh.d"}}, []string{"/d/", "/d/new=2"}},
		"whiteout in a layer of its own":                {[][]any{{"a=1"}, {".wh.a"}, {"a=3"}}, []string{"/a=3"}},
		"opaque":                                        {[][]any{{"d/", "d/a=1", "d/e/", "d/e/f=1"}, {"d/", "d/b=2", "d/.wh..wh..opq"}}, []string{"/d/", "/d/b=2"}},
		"opaque keeps what is under a common directory": {[][]any{{"d/e/old=1"}, {"d/.wh..wh..opq", "d/e/new=2"}}, []string{"/d/", "/d/e/", "/d/e/new=2"}},
		"opaque root":                                   {[][]any{{"a=1", "d/"}, {".wh..wh..opq", "b=2"}}, []string{"/b=2"}},
		"AUFS's own files":                              {[][]any{{".wh..wh.plnk/", ".wh..wh.aufs=", "a=1"}}, []string{"/a=1"}},
		"file becomes directory":                        {[][]any{{"a=1"}, {"a/", "a/b=2"}}, []string{"/a/", "/a/b=2"}},
		"file becomes a directory that is left out":     {[][]any{{"a=1"}, {"a/b=2"}}, []string{"/a/", "/a/b=2"}},
		"directory becomes file":                        {[][]any{{"a/", "a/b=1"}, {"a=2"}}, []string{"/a=2"}},
		"directory becomes link":                        {[][]any{{"a/", "a/b=1", "c/"}, {"a -> c"}}, []string{"/a -> c", "/c/"}},
		"link becomes directory":                        {[][]any{{"a -> c", "c/", "c/d=1"}, {"a/", "a/b=2"}}, []string{"/a/", "/a/b=2", "/c/", "/c/d=1"}},
		"through a link":                                {[][]any{{"bin -> usr/bin", "usr/bin/"}, {"bin/sh=1"}}, []string{"/bin -> usr/bin", "/usr/", "/usr/bin/", "/usr/bin/sh=1"}},
		"through an absolute link":                      {[][]any{{"lib -> /usr/lib", "usr/lib/"}, {"lib/so=1"}}, []string{"/lib -> /usr/lib", "/usr/", "/usr/lib/", "/usr/lib/so=1"}},
		"through a link that leads up":                  {[][]any{{"x -> ../../../../etc", "x/passwd=1"}}, []string{"/etc/", "/etc/passwd=1", "/x -> ../../../../etc"}},
		"through a link to nowhere":                     {[][]any{{"x -> y/z"}, {"x/a=1"}}, []string{"/x -> y/z", "/y/", "/y/z/", "/y/z/a=1"}},
		"whiteout through a link":                       {[][]any{{"l -> d", "d/", "d/a=1"}, {"l/.wh.a"}}, []string{"/d/", "/l -> d"}},
		"names with dots and slashes":                   {[][]any{{"./a=1", "/b=2", "c//d/./e=3", "f/../g=4"}}, []string{"/a=1", "/b=2", "/c/", "/c/d/", "/c/d/e=3", "/g=4"}},
		"hard links":                                    {[][]any{{"a=1", "d/", "d/b => a"}, {"c => d/b"}}, []string{"/a=1", "/c => /a", "/d/", "/d/b => /a"}},
		"hard link to a link":                           {[][]any{{"l -> a", "h => l"}}, []string{"/h -> a", "/l => /h"}},
		"hard link whose target goes":                   {[][]any{{"a=1", "b => a"}, {".wh.a"}}, []string{"/b=1"}},
		"hard link whose target is replaced":            {[][]any{{"a=1", "b => a"}, {"a=2"}}, []string{"/a=2", "/b=1"}},
		"hard link over a directory":                    {[][]any{{"a=1", "d/", "d/x=2"}, {"d => a"}}, []string{"/a=1", "/d => /a"}},
		"same name twice":                               {[][]any{{"a=1", "a=2"}}, []string{"/a=2"}},
		"devices": {[][]any{{
			tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
			tar.Header{Name: "loop", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 7, Devminor: 300000},
			tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
		}}, []string{"/fifo 10600 0:0", "/loop 60660 7:300000", "/null 20666 1:3"}},
	} {
		t.Run(name, func(t *testing.T) {
			root, err := merge(t, c.layers...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, list(t, root)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Attributes are those of the last entry; a directory that the archive leaves out has the time of what is in it.
func TestAttributes(t *testing.T) {
	root, err := merge(t, []any{
		tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(1, 0)},
		"d/f=x",
		tar.Header{Name: "su", Typeflag: tar.TypeReg, Mode: 0o6755, Uid: 70000, Gid: 4294967294, ModTime: time.Unix(-5, 7), PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.k": "v",
		}},
	}, []any{tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 5, ModTime: time.Unix(2, 500)}})
	if err != nil {
		t.Fatal(err)
	}
	d := root.Child("d")
	if d.Mode != tree.TypeDir|0o1777 || d.UID != 5 || d.Mtime != (tree.Time{Sec: 2, Nsec: 500}) || d.Len() != 1 {
		t.Errorf("%+v", d)
	}
	su := root.Child("su")
	want := map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x04", "user.k": "v"}
	if su.Mode != tree.TypeRegular|0o6755 || su.UID != 70000 || su.GID != 4294967294 || su.Mtime != (tree.Time{Sec: -5, Nsec: 7}) || !cmp.Equal(su.Xattrs, want) {
		t.Errorf("%+v", su)
	}
}

func TestHostileLayers(t *testing.T) {
	for name, c := range map[string]struct {
		entries []any
		says    string
	}{
		"name that leads out":        {[]any{"../etc/passwd=x"}, "leads out of the image"},
		"name that leads out later":  {[]any{"a/../../b=x"}, "leads out of the image"},
		"hard link that leads out":   {[]any{"a => ../../etc/shadow"}, "leads out of the image"},
		"hard link to nothing":       {[]any{"a => b"}, "does not exist"},
		"hard link to a directory":   {[]any{"d/", "a => d"}, "is a directory"},
		"links in a circle":          {[]any{"a -> b", "b -> a", "a/f=x"}, "too many symbolic links"},
		"whiteout of the directory":  {[]any{"d/", "d/.wh.."}, "whiteout of nothing"},
		"whiteout of the parent":     {[]any{"d/", "d/.wh..."}, "whiteout of nothing"},
		"file as the root":           {[]any{tar.Header{Name: ".", Typeflag: tar.TypeReg}}, "the root is no directory"},
		"long name":                  {[]any{strings.Repeat("n", 256) + "=x"}, "a name of 256 bytes"},
		"long path":                  {[]any{strings.Repeat("d/", 2100) + "f=x"}, "a path of"},
		"user that cannot be":        {[]any{tar.Header{Name: "a", Typeflag: tar.TypeReg, Uid: 1<<32 - 1}}, "user or group id"},
		"device that cannot be":      {[]any{tar.Header{Name: "a", Typeflag: tar.TypeChar, Devmajor: 1 << 20}}, "device number"},
		"attribute that is too long": {[]any{tar.Header{Name: "a", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 70000)}}}, "70000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := merge(t, c.entries); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
	deep := []any{"l -> " + strings.Repeat("d/", 1000)}
	for range 3 {
		deep = append(deep, "l/"+strings.Repeat("d/", 1000)+"x/", "l2 -> l/"+strings.Repeat("d/", 1000), "l -> l2/"+strings.Repeat("d/", 900))
	}
	if _, err := merge(t, deep); err == nil {
		t.Error("directories deeper than a path can be were made through links")
	}
}

func TestLimits(t *testing.T) {
	ctx := context.Background()
	var zeros bytes.Buffer
	z := gzip.NewWriter(&zeros)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "bomb", Typeflag: tar.TypeReg, Size: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zero{}, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	var junk bytes.Buffer // a bomb behind the archive
	e, err := zstd.NewWriter(&junk)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = e.Write(archive(t, "a=1"))
	_, _ = io.CopyN(e, zero{}, 64<<20)
	_ = e.Close()
	many := make([]any, 101)
	for i := range many {
		many[i] = fmt.Sprintf("%d/", i)
	}
	for name, c := range map[string]struct {
		data   []byte
		limits Limits
		says   string
	}{
		"decompressed size":  {zeros.Bytes(), Limits{Bytes: 1 << 20}, "larger than 1MiB"},
		"behind the archive": {junk.Bytes(), Limits{Bytes: 1 << 20}, "larger than 1MiB"},
		"sparse file":        {sparse(t, 1<<40), Limits{Bytes: 1 << 20}, "larger than 1MiB"},
		"entries":            {archive(t, many...), Limits{Entries: 100}, "more than 100 files"},
		"names":              {archive(t, strings.Repeat("n", 200)+"=x", strings.Repeat("m", 200)+"=x"), Limits{Names: 300}, "names and attributes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Scan(ctx, bytes.NewReader(c.data), t.TempDir(), NewBudget(c.limits), "")
			var e *sandbox.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.says) || errors.Is(err, ErrDamaged) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// sparse is an archive with a file of size bytes that is all hole, in GNU's format 1.0.
func sparse(t *testing.T, size int64) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	body := fmt.Sprintf("1\n%d\n0\n", size)
	body += strings.Repeat("\x00", 512-len(body))
	err := w.WriteHeader(&tar.Header{
		Name: "sparse", Typeflag: tar.TypeReg, Size: int64(len(body)), Format: tar.FormatPAX,
		PAXRecords: map[string]string{"VENDOR.x": "y"},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, body)
	_ = w.Close()
	// The writer refuses GNU's records, so they take the place of one of the same length.
	records := fmt.Sprintf("22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n%s", pax("GNU.sparse.realsize", fmt.Sprint(size)))
	data := buf.Bytes()
	header := bytes.Clone(data[:512])
	copy(header[124:], fmt.Sprintf("%011o\x00", len(records)))
	copy(header[148:], "        ")
	sum := 0
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
	out := slices.Concat(header, []byte(records))
	out = append(out, make([]byte, 512-len(records)%512)...)
	return append(out, data[1024:]...)
}

func pax(k, v string) string {
	for n := len(k) + len(v) + 3; ; n++ {
		if s := fmt.Sprintf("%d %s=%s\n", n, k, v); len(s) == n {
			return s
		}
	}
}

func TestCompressionAndDigest(t *testing.T) {
	ctx := context.Background()
	plain := archive(t, "a=hello")
	var gz, zs bytes.Buffer
	z := gzip.NewWriter(&gz)
	_, _ = z.Write(plain)
	_ = z.Close()
	e, _ := zstd.NewWriter(&zs)
	_, _ = e.Write(plain)
	_ = e.Close()
	first, err := Scan(ctx, bytes.NewReader(plain), t.TempDir(), NewBudget(Limits{}), "")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for name, data := range map[string][]byte{"gzip": gz.Bytes(), "zstd": zs.Bytes(), "none": plain} {
		l, err := Scan(ctx, bytes.NewReader(data), t.TempDir(), NewBudget(Limits{}), first.DiffID)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = l.Close()
		if _, err := Scan(ctx, bytes.NewReader(data[:len(data)*2/3]), t.TempDir(), NewBudget(Limits{}), first.DiffID); err == nil {
			t.Errorf("%s: a layer that is cut off was taken", name)
		}
	}
	var wrong *DigestError
	if _, err := Scan(ctx, bytes.NewReader(archive(t, "a=other")), t.TempDir(), NewBudget(Limits{}), first.DiffID); !errors.As(err, &wrong) {
		t.Errorf("another layer: %v", err)
	}
	if _, err := Scan(ctx, strings.NewReader("\xfd7zXZ\x00 and so on"), t.TempDir(), NewBudget(Limits{}), ""); err == nil || !strings.Contains(err.Error(), "xz") {
		t.Errorf("xz: %v", err)
	}
}

func FuzzScan(f *testing.F) {
	f.Add(archive(f, "d/", "d/a=1", "l -> d", "h => d/a", ".wh.x", "d/.wh..wh..opq"))
	f.Add(archive(f, "l -> ../..", "l/etc/passwd=x", "l/.wh.etc"))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Fuzz(func(t *testing.T, data []byte) {
		root := tree.New(tree.Time{})
		budget := NewBudget(Limits{Bytes: 1 << 20, Entries: 1000, Names: 1 << 20})
		for i, part := range [][]byte{data, data} { // the second time over what the first left
			l, err := Scan(context.Background(), bytes.NewReader(part), t.TempDir(), budget, "")
			if err != nil {
				return
			}
			defer l.Close()
			if l.Merge(root, i) != nil {
				return
			}
		}
		for p, n := range tree.Walk(root) {
			if len(p) > tree.MaxPath+tree.MaxName+1 || strings.Contains(p, "/../") || strings.ContainsRune(p, 0) {
				t.Errorf("path %q", p)
			}
			if n.Contents.Size > 0 && (n.Contents.Off < 0 || n.Contents.Source == nil) {
				t.Errorf("%q: %+v", p, n.Contents)
			}
		}
		if err := tree.WriteTar(context.Background(), io.Discard, root); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkEntries(b *testing.B) {
	entries := make([]any, 0, 100_000)
	for d := range 1000 {
		for f := range 100 {
			entries = append(entries, fmt.Sprintf("usr/lib/%d/%d=contents", d, f))
		}
	}
	data := archive(b, entries...)
	for b.Loop() {
		root := tree.New(tree.Time{})
		l, err := Scan(context.Background(), bytes.NewReader(data), b.TempDir(), NewBudget(Limits{}), "")
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Merge(root, 0); err != nil {
			b.Fatal(err)
		}
		_ = l.Close()
	}
}
