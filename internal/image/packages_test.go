package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

// packagesTar is what mmdebstrap would write.
func packagesTar(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			_, _ = io.WriteString(w, h.Name)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestTree(t *testing.T) {
	files := fstest.MapFS{"etc/passwd": {Data: []byte("ours")}}
	r, err := parseRecipe([]byte(`
suite s
packages p
drop /usr/share/doc /usr/lib/*/gconv
dir /etc 755 0 0
file /etc/passwd 644 0 0 etc/passwd
file /etc/group 640 0 42 etc/passwd
link /usr/bin/sh busybox
dir /tmp 1777 0 0
`), files)
	if err != nil {
		t.Fatal(err)
	}
	in := packagesTar(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666},
		tar.Header{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: "./etc/passwd", Typeflag: tar.TypeReg, Mode: 0o600},
		tar.Header{Name: "./usr/share/doc/x", Typeflag: tar.TypeReg, Mode: 0o644},
		tar.Header{Name: "./usr/lib/a-b/gconv/x", Typeflag: tar.TypeReg, Mode: 0o644},
		tar.Header{Name: "./usr/bin/sudo", Typeflag: tar.TypeReg, Mode: 0o4755},
		tar.Header{Name: "./usr/bin/sudoedit", Typeflag: tar.TypeLink, Linkname: "./usr/bin/sudo"},
	)
	var out bytes.Buffer
	d := distribution{recipe: r, entries: r.entries, said: func(string) {}}
	if err := d.tree(context.Background(), in, &out); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	tr := tar.NewReader(&out)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(tr)
		if !h.ModTime.Equal(buildTime) {
			t.Errorf("%s has the time %v", h.Name, h.ModTime)
		}
		got[h.Name] = strings.Join([]string{string(h.Typeflag), fs.FileMode(h.Mode).String(), h.Linkname, string(data)}, " ")
	}
	for name, want := range map[string]string{
		"etc/": "5 -rwx------  ", "etc/passwd": "0 -rw-------  ./etc/passwd", "etc/group": "0 -rw-r-----  ours", "usr/bin/sh": "2 -rwxrwxrwx busybox ",
		"usr/bin/sudoedit": "1 ---------- ./usr/bin/sudo ",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"dev/null", "usr/share/doc/x", "usr/lib/a-b/gconv/x", "./", ""} {
		if _, ok := got[name]; ok {
			t.Errorf("%q is there", name)
		}
	}
	r.drop = append(r.drop, "/usr/bin/sudo")
	d = distribution{recipe: r, entries: r.entries, said: func(string) {}}
	in = packagesTar(t, tar.Header{Name: "./usr/bin/sudo", Typeflag: tar.TypeReg}, tar.Header{Name: "./usr/bin/sudoedit", Typeflag: tar.TypeLink, Linkname: "./usr/bin/sudo"})
	if err := d.tree(context.Background(), in, io.Discard); err == nil || !strings.Contains(err.Error(), "hard link") {
		t.Errorf("a hard link to what is dropped: %v", err)
	}
	r.strip = []string{"/usr/lib/*.a"}
	d = distribution{recipe: r, options: BuildOptions{Arch: hostArch()}, said: func(string) {}}
	in = packagesTar(t, tar.Header{Name: "./usr/lib/text.a", Typeflag: tar.TypeReg})
	if err := d.tree(context.Background(), in, io.Discard); err == nil || !strings.Contains(err.Error(), "strip /usr/lib/text.a") {
		t.Errorf("a text is stripped: %v", err)
	}
	for pattern, says := range map[string]string{"/usr/lib/text.a": "load /usr/lib/text.a without libx.so: it is not an ELF file", "/usr/lib/other.so": "out of date"} {
		d = distribution{recipe: recipe{unneed: []unneeded{{"libx.so", []string{pattern}}}}, said: func(string) {}}
		in = packagesTar(t, tar.Header{Name: "./usr/lib/text.a", Typeflag: tar.TypeReg})
		if err := d.tree(context.Background(), in, io.Discard); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("unneed of %s: %v", pattern, err)
		}
	}
}
