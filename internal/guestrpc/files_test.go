package guestrpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/pieces"
)

// scripted is the files of a guest that says this, whatever it is asked, and then hangs up. It reads what it is sent.
func scripted(t testing.TB, says []byte) *Files {
	begin := func(context.Context, *guestv1.StreamRequest) (Conn, error) {
		host, guest := net.Pipe()
		go io.Copy(io.Discard, guest)
		go func() {
			_, _ = guest.Write(says)
			_ = guest.Close()
		}()
		t.Cleanup(func() { host.Close() })
		return host, nil
	}
	return NewFiles(begin, func(err error) error { return err }, nil)
}

func message(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// says is pieces and, with a result, the end.
func says(t testing.TB, result *guestv1.FilesResult, parts ...[]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := pieces.NewWriter(&buf)
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if result != nil {
		if err := w.End(message(t, result)); err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

// TestFilesOfHostileGuest has each operation meet answers that no honest guest gives.
func TestFilesOfHostileGuest(t *testing.T) {
	info := func(name string) []byte {
		return message(t, &guestv1.FileInfo{Name: []byte(name), Mode: 0o100644})
	}
	list := func(names ...string) []byte {
		m := &guestv1.FileList{}
		for _, n := range names {
			m.Files = append(m.Files, &guestv1.FileInfo{Name: []byte(n)})
		}
		return message(t, m)
	}
	ok := &guestv1.FilesResult{}
	stat := func(f *Files) error { _, err := f.Stat(t.Context(), "/x", false); return err }
	read := func(f *Files) error {
		d, err := f.Read(t.Context(), "/x", 0, 0)
		if err == nil {
			defer d.Close()
			_, err = io.Copy(io.Discard, d)
		}
		return err
	}
	ls := func(f *Files) error { return f.List(t.Context(), "/x", func([]FileInfo) error { return nil }) }
	watch := func(f *Files) error { return f.Watch(t.Context(), "/x", true, func([]Change) error { return nil }) }
	write := func(f *Files) error {
		_, err := f.Write(t.Context(), WriteSpec{Path: "/x"}, endless{})
		return err
	}
	for name, tc := range map[string]struct {
		do   func(*Files) error
		says []byte
	}{
		"silence":                {stat, nil},
		"garbage":                {stat, []byte("garbage that is no length")},
		"huge piece":             {read, binary.BigEndian.AppendUint32(nil, pieces.Max+1)},
		"huge result":            {stat, []byte{0, 0, 0, 0, 0, 1, 0, 1}},
		"result cut":             {stat, []byte{0, 0, 0, 0, 0, 0, 0, 9, 'x'}},
		"result garbage":         {stat, append([]byte{0, 0, 0, 0, 0, 0, 0, 4}, "\xff\xff\xff\xff"...)},
		"bytes for stat":         {stat, says(t, ok, []byte("bytes"))},
		"name with NUL":          {stat, says(t, &guestv1.FilesResult{Info: &guestv1.FileInfo{Name: []byte("/a\x00b")}})},
		"long name":              {stat, says(t, &guestv1.FilesResult{Info: &guestv1.FileInfo{Name: bytes.Repeat([]byte("/"), 5000)}})},
		"impossible size":        {stat, says(t, &guestv1.FilesResult{Info: &guestv1.FileInfo{Name: []byte("/a"), Size: 1 << 63}})},
		"read without a file":    {read, says(t, ok)},
		"read of garbage":        {read, says(t, ok, []byte("\xff\xff\xff"))},
		"read cut":               {read, says(t, nil, info("/x"), []byte("data"))},
		"name with a slash":      {ls, says(t, ok, list("a", "../b"))},
		"empty name":             {ls, says(t, ok, list(""))},
		"list of garbage":        {ls, says(t, ok, []byte("\xff\xff\xff"))},
		"list cut":               {ls, says(t, nil, list("a"))},
		"unknown change":         {watch, says(t, ok, message(t, &guestv1.WatchEvents{Events: []*guestv1.WatchEvent{{Kind: 99}}}))},
		"write, silence":         {write, nil},
		"write, then bytes":      {write, says(t, ok, []byte("x"))},
		"written, no file":       {write, says(t, ok)},
		"failure without reason": {stat, says(t, &guestv1.FilesResult{Failure: &guestv1.FilesFailure{Errno: 1 << 31}})},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.do(scripted(t, tc.says)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("%v", err)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestFilesFailures checks the kinds of a guest's errors, and that its words are printable.
func TestFilesFailures(t *testing.T) {
	for errno, want := range map[uint32]sandbox.Kind{0: sandbox.Invalid, 2: sandbox.NotFound, 17: sandbox.Exists, 20: sandbox.Invalid, 28: sandbox.Conflict, 13: sandbox.Conflict, 9999: sandbox.Conflict} {
		f := scripted(t, says(t, &guestv1.FilesResult{Failure: &guestv1.FilesFailure{Errno: errno, Message: "no\x1b[2J \u202ename" + strings.Repeat("x", 5000)}}))
		_, err := f.Stat(t.Context(), "/x", false)
		if sandbox.KindOf(err) != want || strings.ContainsAny(err.Error(), "\x1b\u202e") || len(err.Error()) > 2000 {
			t.Errorf("errno %d: kind %s, %.100q", errno, sandbox.KindOf(err), err)
		}
	}
	f := scripted(t, says(t, &guestv1.FilesResult{LeftOut: 3, Warnings: []string{"a\x07"}}, message(t, &guestv1.FileInfo{Name: []byte("/x")}), []byte("archive")))
	d, err := f.Pack(t.Context(), PackSpec{Path: "/x"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	data, err := io.ReadAll(d)
	if err != nil || string(data) != "archive" || d.Copied.LeftOut != 3 || d.Copied.Warnings[0] != "a?" {
		t.Errorf("%q, %+v, %v", data, d.Copied, err)
	}
}

// TestFilesCanceled waits for a guest that says nothing and does not hang up.
func TestFilesCanceled(t *testing.T) {
	begin := func(context.Context, *guestv1.StreamRequest) (Conn, error) {
		host, guest := net.Pipe()
		t.Cleanup(func() { host.Close(); guest.Close() })
		return host, nil
	}
	f := NewFiles(begin, func(err error) error { return err }, nil)
	for name, do := range map[string]func(context.Context) error{
		"stat":   func(ctx context.Context) error { _, err := f.Stat(ctx, "/x", false); return err },
		"read":   func(ctx context.Context) error { _, err := f.Read(ctx, "/x", 0, 0); return err },
		"unpack": func(ctx context.Context) error { _, err := f.Unpack(ctx, "/x", false, endless{}); return err },
		"list":   func(ctx context.Context) error { return f.List(ctx, "/x", nil) },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("waited long enough")
		go cancel(enough)
		if err := do(ctx); !errors.Is(err, enough) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzFiles(f *testing.F) {
	f.Add(says(f, &guestv1.FilesResult{Info: &guestv1.FileInfo{Name: []byte("/x")}}, message(f, &guestv1.FileList{Files: []*guestv1.FileInfo{{Name: []byte("a")}}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		files := scripted(t, data)
		_, _ = files.Stat(t.Context(), "/x", false)
		_ = files.List(t.Context(), "/x", func(list []FileInfo) error {
			for _, i := range list {
				if i.Name == "" || strings.ContainsAny(i.Name, "/\x00") {
					t.Errorf("a file called %q", i.Name)
				}
			}
			return nil
		})
		_ = files.Watch(t.Context(), "/x", false, func([]Change) error { return nil })
		if d, err := files.Read(t.Context(), "/x", 0, 0); err == nil {
			_, _ = io.Copy(io.Discard, d)
		}
	})
}
