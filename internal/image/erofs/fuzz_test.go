package erofs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	reader "github.com/erofs/go-erofs"

	"github.com/agentkernel/agentkernel/internal/image/layer"
	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// Whatever tree a layer gives, the image of it has the same names and contents.
func FuzzWrite(f *testing.F) {
	for _, entries := range [][]tar.Header{
		{{Name: "d/", Typeflag: tar.TypeDir}, {Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "x"}, {Name: "a", Typeflag: tar.TypeReg, Size: 5000}, {Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}},
		{{Name: strings.Repeat("n", 255), Typeflag: tar.TypeReg, Size: 4095, PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 4000)}}, {Name: "p", Typeflag: tar.TypeFifo}},
	} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range entries {
			h.Format = tar.FormatPAX
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
			_, _ = w.Write(bytes.Repeat([]byte{'x'}, int(h.Size)))
		}
		_ = w.Close()
		f.Add(buf.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx := context.Background()
		l, err := layer.Scan(ctx, bytes.NewReader(data), t.TempDir(), layer.NewBudget(layer.Limits{Bytes: 1 << 20, Entries: 1000, Names: 1 << 20}), "")
		if err != nil {
			return
		}
		defer l.Close()
		root := tree.New(tree.Time{})
		if l.Merge(root, 0) != nil {
			return
		}
		out, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if err := Write(ctx, out, root, Options{Level: 1}); err != nil {
			if strings.Contains(err.Error(), "attribute") {
				return // more of them than an inode can have
			}
			t.Fatal(err)
		}
		if err := out.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if err := Write(ctx, out, root, Options{}); err != nil {
			t.Fatal(err)
		}
		img, err := reader.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		for p, n := range tree.Walk(root) {
			if err := same(img, strings.TrimPrefix(p, "/"), n); err != nil {
				t.Errorf("%q: %v", p, err)
			}
		}
	})
}

func same(img fs.FS, name string, n *tree.Node) error {
	if !fs.ValidPath(name) {
		return nil // that reader's interface has no way to name it
	}
	info, err := fs.Lstat(img, name)
	if err != nil {
		return err
	}
	if got := unixMode(info.Mode()); got&tree.TypeMask != uint64(n.Type()) || info.IsDir() != n.IsDir() {
		return fmt.Errorf("mode %o, want %o", got, n.Mode)
	}
	if n.Type() != tree.TypeRegular {
		return nil
	}
	got, err := fs.ReadFile(img, name)
	if err != nil {
		return err
	}
	want := make([]byte, n.Contents.Size)
	if err := readFull(n.Contents, want, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes differ", len(want))
	}
	return nil
}
