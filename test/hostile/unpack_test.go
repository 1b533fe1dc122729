package hostile

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/archive"
	"github.com/agentkernel/agentkernel/internal/transport/pieces"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// member is a member of an archive; its size is that of the content.
func member(name string, kind byte, target string, mode int64, content string) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		h := &tar.Header{Name: name, Typeflag: kind, Linkname: target, Mode: mode, Size: int64(len(content)), Devmajor: 1, Devminor: 3}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.WriteString(w, content)
		return err
	}
}

// sendArchive is a guest that sends these members, and then what more writes.
func sendArchive(g *guest, more func(*tar.Writer) error, members ...func(*tar.Writer) error) {
	g.stream = func(c net.Conn, _ *guestv1.StreamRequest) {
		_, _ = c.Write(append(accepted, anyFile...))
		out := pieces.NewWriter(c)
		w := tar.NewWriter(out)
		for _, m := range append(members, more) {
			if m != nil && m(w) != nil {
				return
			}
		}
		_ = w.Close()
		_ = out.End(nil)
		_, _ = io.Copy(io.Discard, c)
	}
}

// unpack does what the command does with an archive from a sandbox.
func unpack(ctx context.Context, d *daemon, target string) error {
	a, err := d.GetArchive(ctx, "evil", "/x", client.ArchiveOptions{As: "x"})
	if err != nil {
		return err
	}
	defer a.Close()
	_, err = archive.Unpack(a, target, archive.UnpackOptions{Only: "x"})
	return err
}

// TestUnpack receives archives that want to get out of the directory that they are unpacked in.
func TestUnpack(t *testing.T) {
	dir := member("x", tar.TypeDir, "", 0o755, "")
	for name, members := range map[string][]func(*tar.Writer) error{
		"dot dot":               {dir, member("x/../../secret", tar.TypeReg, "", 0o644, "pwned")},
		"absolute":              {member("/etc/secret", tar.TypeReg, "", 0o644, "pwned")},
		"beside":                {dir, member("y", tar.TypeReg, "", 0o644, "pwned")},
		"absolute symlink":      {dir, member("x/l", tar.TypeSymlink, "BASE", 0o777, ""), member("x/l/secret", tar.TypeReg, "", 0o644, "pwned")},
		"symlink as the target": {member("x", tar.TypeSymlink, "BASE", 0o777, ""), member("x/secret", tar.TypeReg, "", 0o644, "pwned")},
		"hard link outside":     {dir, member("x/l", tar.TypeLink, "../secret", 0o644, ""), member("x/l", tar.TypeReg, "", 0o644, "pwned")},
		"hard link, absolute":   {dir, member("x/l", tar.TypeLink, "BASE/secret", 0o644, "")},
		"device":                {dir, member("x/null", tar.TypeChar, "", 0o666, "")},
		"set-id":                {dir, member("x/su", tar.TypeReg, "", 0o6755, "#!"), member("x/d", tar.TypeDir, "", 0o7777, "")},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			secret, target := filepath.Join(base, "secret"), filepath.Join(base, "target")
			check(t, os.WriteFile(secret, []byte("secret"), 0o600), os.Mkdir(target, 0o755))
			g := new(guest)
			sendArchive(g, nil, members...)
			if name == "absolute symlink" || name == "symlink as the target" || name == "hard link, absolute" {
				sendArchive(g, nil, toBase(base, members)...)
			}
			d := newDaemon(t, g)
			_, err := d.Start(t.Context(), "evil", client.StartOptions{})
			check(t, err)
			err = unpack(t.Context(), d, target)
			t.Log(err)
			if (err == nil) != (name == "device" || name == "set-id") {
				t.Errorf("unpacked with %v", err)
			}
			if data, err := os.ReadFile(secret); err != nil || string(data) != "secret" {
				t.Errorf("the secret: %q, %v", data, err)
			}
			if entries, _ := os.ReadDir(base); len(entries) != 2 {
				t.Errorf("beside the target: %v", entries)
			}
			_ = filepath.WalkDir(target, func(path string, e fs.DirEntry, err error) error {
				check(t, err)
				fi, err := e.Info()
				check(t, err)
				if rel, _ := filepath.Rel(target, path); rel != "." && rel != "x" && filepath.Dir(rel) != "x" {
					t.Errorf("%s was made", rel)
				}
				if fi.Mode()&(fs.ModeDevice|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
					t.Errorf("%s has the mode %s", path, fi.Mode())
				}
				return nil
			})
			d.served(t)
		})
	}
}

// toBase has links lead to base.
func toBase(base string, members []func(*tar.Writer) error) (list []func(*tar.Writer) error) {
	for _, m := range members {
		list = append(list, func(w *tar.Writer) error {
			var b bytes.Buffer
			one := tar.NewWriter(&b)
			if err := errors.Join(m(one), one.Close()); err != nil {
				return err
			}
			r := tar.NewReader(&b)
			h, err := r.Next()
			if err != nil {
				return err
			}
			h.Linkname = string(bytes.Replace([]byte(h.Linkname), []byte("BASE"), []byte(base), 1))
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			_, err = io.Copy(w, r)
			return err
		})
	}
	return list
}

// TestTinyFiles unpacks tiny files and directories without end, and gives up after some ten thousands.
func TestTinyFiles(t *testing.T) {
	const enough = 20_000
	g := &guest{reached: make(chan struct{}, 1)}
	sendArchive(g, func(w *tar.Writer) error {
		for i := 0; ; i++ {
			if i == enough {
				g.tell()
			}
			if err := member(fmt.Sprintf("x/%d/%d", i/100, i), tar.TypeReg, "", 0o644, "")(w); err != nil {
				return err
			}
		}
	})
	d := newDaemon(t, g)
	_, err := d.Start(t.Context(), "evil", client.StartOptions{})
	check(t, err)
	before := heap()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	target := t.TempDir()
	go func() { ended <- unpack(ctx, d, target) }()
	<-g.reached
	d.served(t)
	held := int64(heap()) - int64(before)
	t.Logf("%d KiB held after %d files", held>>10, enough)
	if held > maxHeap {
		t.Errorf("%d MiB are held, more than %d", held>>20, maxHeap>>20)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("an archive without end was unpacked")
	}
	d.handled(t)
}
