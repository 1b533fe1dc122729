package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"time"
)

// tell is all that an archive's reader says of it, and how it ends.
func tell(next func() (*tar.Header, io.Reader, error)) (list []string, err error) {
	for {
		h, r, err := next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		var xattrs []string
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, xattrPrefix) {
				xattrs = append(xattrs, fmt.Sprintf("%q=%q", k, v))
			}
		}
		if h.Typeflag != tar.TypeLink && h.Typeflag != tar.TypeSymlink {
			h.Linkname = "" // means nothing
		}
		text := fmt.Sprintf("%c %q %q %o %d:%d %d %d", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.Size, h.ModTime.UnixNano())
		if len(xattrs) == 1 {
			text += xattrs[0]
		}
		if h.Size > 1<<20 {
			return append(list, text), nil
		}
		data, err := io.ReadAll(r)
		list = append(list, text+fmt.Sprintf(" %x", crc32.ChecksumIEEE(data)))
		if err != nil {
			return list, err
		}
	}
}

func tellOurs(b []byte) ([]string, error) {
	r := newReader(bytes.NewReader(b))
	return tell(func() (*tar.Header, io.Reader, error) { h, err := r.next(); return h, r, err })
}

func tellLibrary(b []byte) ([]string, error) {
	r := tar.NewReader(bytes.NewReader(b))
	return tell(func() (*tar.Header, io.Reader, error) { h, err := r.Next(); return h, r, err })
}

func alike(t *testing.T, b []byte) {
	t.Helper()
	ours, ourErr := tellOurs(b)
	want, wantErr := tellLibrary(b)
	cut := errors.Is(ourErr, io.ErrUnexpectedEOF) && wantErr == nil // the library takes what ends within records for an end
	if fmt.Sprint(ours) != fmt.Sprint(want) || (ourErr == nil) != (wantErr == nil) && !cut {
		t.Errorf("read %v, %v\nand not %v, %v", ours, ourErr, want, wantErr)
	}
}

// samples are archives of both writers, in all formats.
func samples(t testing.TB) (list [][]byte) {
	t.Helper()
	var buf bytes.Buffer
	w := newWriter(&buf, nil)
	long := strings.Repeat("long/", 60) + "ü"
	for _, m := range []member{
		{name: "a", kind: typeFile, mode: 0o644, size: 3, modified: time.Unix(5, 0)},
		{name: "b", kind: typeFile, mode: 0o4755, uid: 1 << 30, gid: 7, size: 3, modified: time.Unix(1700000000, 123456789)},
		{name: long, kind: typeFile, size: 3, modified: time.Unix(0, 100)},
		{name: "x", kind: typeFile, size: 3, xattrs: []Xattr{{"user.a", "v\x00\n="}}},
		{name: "d/", kind: typeDir, mode: 0o1777},
		{name: "d/l", kind: typeSymlink, link: long},
		{name: "d/h", kind: typeLink, link: "a"},
		{name: "p", kind: typeFIFO},
		{name: "n", kind: typeChar, major: 1, minor: 3},
		{name: "old", kind: typeFile, size: 3, modified: time.Unix(-5, 7)},
		{name: "s", kind: typeFile, size: 5000, data: []extent{{4096, 3}, {5000, 0}}},
		{name: "z", kind: typeFile, size: 3},
	} {
		if err := w.header(&m); err != nil {
			t.Fatal(err)
		}
		if m.kind == typeFile {
			if err := errors.Join(w.write([]byte("abc")), w.pad(3)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	list = append(list, buf.Bytes())
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, name := range []string{"a", "dir/", strings.Repeat("long/", 30), strings.Repeat("n", 99), "ü", "last"} {
			h := &tar.Header{Name: name, Mode: 0o600, Typeflag: tar.TypeReg, Size: 3, Format: format, ModTime: time.Unix(9, 0)}
			if strings.HasSuffix(name, "/") {
				h.Typeflag, h.Size = tar.TypeDir, 0
			}
			if err := w.WriteHeader(h); err != nil {
				continue // not in this format
			}
			_, _ = w.Write([]byte("abc")[:h.Size])
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		list = append(list, buf.Bytes())
	}
	return list
}

// TestReaderIsTheLibrarys reads archives, whole and cut anywhere, as the standard library does.
func TestReaderIsTheLibrarys(t *testing.T) {
	for _, b := range samples(t) {
		alike(t, b)
		for n := 0; n < len(b); n += 100 {
			alike(t, b[:n])
		}
	}
	if got, err := tellOurs(samples(t)[0]); len(got) != 12 || err != nil {
		t.Errorf("%d members, %v", len(got), err)
	}
}

func FuzzReader(f *testing.F) {
	for _, b := range samples(f) {
		f.Add(b, 0, byte(0), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, at int, to byte, mend bool) {
		b = bytes.Clone(b)
		if at >= 0 && at < len(b) { // one byte is another, and its header's checksum right for it
			b[at] = to
			if block := at / blockSize * blockSize; mend && block+blockSize <= len(b) {
				copy(b[block+sumAt:], fmt.Sprintf("%06o\x00 ", sum(b[block:block+blockSize])))
			}
		}
		alike(t, b)
	})
}
