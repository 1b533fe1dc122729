package vmmrelease

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// program is an ELF file of an architecture, with some text in it.
func program(machine elf.Machine, text string) string {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}, Type: uint16(elf.ET_EXEC),
		Machine: uint16(machine), Version: 1, Ehsize: 64, Phentsize: 56,
	})
	return b.String() + text
}

// archive is a release with some files.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, data := range files {
		h := tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o4777, Size: int64(len(data))}
		if data == "symlink" {
			h.Typeflag, h.Linkname, h.Size, data = tar.TypeSymlink, "/etc/passwd", 0, ""
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const prefix = "release-v" + Version + "-x86_64/"

func good(t *testing.T) []byte {
	return archive(t, map[string]string{
		prefix + "firecracker-v" + Version + "-x86_64": program(elf.EM_X86_64, Version),
		prefix + "jailer-v" + Version + "-x86_64":      program(elf.EM_X86_64, Version),
		prefix + "seccompiler-bin":                     "not wanted",
		"../../outside":                                "not wanted",
	})
}

// options for an archive. The version of a program is the text in it.
func options(t *testing.T, data []byte) Options {
	dir := t.TempDir()
	sum := sha256.Sum256(data)
	return Options{
		Releases: filepath.Join(dir, "releases"), Link: filepath.Join(dir, "firecracker"), Arch: sandbox.X8664, Client: http.DefaultClient,
		Pin: hex.EncodeToString(sum[:]),
		Check: func(_ context.Context, path string) (string, error) {
			data, err := os.ReadFile(path)
			return strings.TrimPrefix(string(data), program(elf.EM_X86_64, "")), err
		},
	}
}

func serve(t *testing.T, o *Options, h http.HandlerFunc) *[]string {
	t.Helper()
	var ranges []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := "/v" + Version + "/firecracker-v" + Version + "-x86_64.tgz"; r.URL.Path != want {
			t.Errorf("asked for %s, not %s", r.URL.Path, want)
		}
		ranges = append(ranges, r.Header.Get("Range"))
		h(w, r)
	}))
	t.Cleanup(s.Close)
	o.Source = s.URL
	return &ranges
}

func TestInstall(t *testing.T) {
	data := good(t)
	o := options(t, data)
	broken := true
	ranges := serve(t, &o, func(w http.ResponseWriter, r *http.Request) {
		if broken { // once
			broken = false
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:100])
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	if err := os.MkdirAll(filepath.Join(o.Releases, ".new-crashed", "firecracker"), 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := Install(t.Context(), o)
	if err != nil || !r.Installed {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(*ranges) != 2 || (*ranges)[1] != "bytes=100-" {
		t.Errorf("requests %q", *ranges)
	}
	for _, path := range []string{r.Firecracker, r.Jailer} {
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o755 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	r, err = Install(t.Context(), o)
	if err != nil || r.Installed || len(*ranges) != 2 {
		t.Errorf("again: %+v, %v, %d requests", r, err, len(*ranges))
	}
	entries, err := os.ReadDir(o.Releases)
	if err != nil || len(entries) != 2 { // and .lock
		t.Errorf("left over: %v, %v", entries, err)
	}
	if err := os.WriteFile(r.Jailer, []byte("damaged"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r, err = Install(t.Context(), o); err != nil || !r.Installed {
		t.Errorf("repair: %+v, %v", r, err)
	}
}

func TestInstallFrom(t *testing.T) {
	data := good(t)
	o := options(t, data)
	o.From = filepath.Join(t.TempDir(), "a.tgz")
	if _, err := Install(t.Context(), o); err == nil || !strings.Contains(err.Error(), "there is no file") {
		t.Error(err)
	}
	if err := os.WriteFile(o.From, data[:len(data)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Install(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is not the release") {
		t.Error(err)
	}
	if err := os.WriteFile(o.From, data, 0o600); err != nil {
		t.Fatal(err)
	}
	// What a user has put there by hand is kept.
	if err := os.MkdirAll(o.Link, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.Link, "firecracker"), []byte("mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r, err := Install(t.Context(), o); err != nil || !r.Installed {
		t.Errorf("%+v, %v", r, err)
	}
	if mine, err := os.ReadFile(filepath.Join(o.Link+".old", "firecracker")); err != nil || string(mine) != "mine" {
		t.Errorf("%q, %v", mine, err)
	}
	if _, err := os.Stat(o.From); err != nil {
		t.Errorf("the user's archive is gone: %v", err)
	}
}

func TestInstallErrors(t *testing.T) {
	fc, jailer := prefix+"firecracker-v"+Version+"-x86_64", prefix+"jailer-v"+Version+"-x86_64"
	ok := program(elf.EM_X86_64, Version)
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"no jailer":            {archive(t, map[string]string{fc: ok}), "there is no jailer"},
		"a link":               {archive(t, map[string]string{fc: "symlink", jailer: ok}), "is no file"},
		"another architecture": {archive(t, map[string]string{fc: ok, jailer: program(elf.EM_AARCH64, Version)}), "EM_AARCH64"},
		"no program":           {archive(t, map[string]string{fc: ok, jailer: "#!/bin/sh"}), "jailer of the release"},
		"another version":      {archive(t, map[string]string{fc: ok, jailer: program(elf.EM_X86_64, "1.0.0")}), "1.0.0"},
		"no archive":           {[]byte("hello, this is no archive"), "gzip"},
	} {
		o := options(t, tc.data)
		serve(t, &o, func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(tc.data))
		})
		_, err := Install(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if _, err := os.Lstat(o.Link); err == nil {
			t.Errorf("%s: something is in place", name)
		}
	}
	o := options(t, nil)
	serve(t, &o, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) })
	if _, err := Install(t.Context(), o); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("404: %v", err)
	}
	o = options(t, nil)
	serve(t, &o, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("something else")) })
	if _, err := Install(t.Context(), o); err == nil || !strings.Contains(err.Error(), "was not accepted") {
		t.Errorf("wrong hash: %v", err)
	}
	if parts, _ := filepath.Glob(filepath.Join(o.Releases, "*.part")); len(parts) != 0 {
		t.Errorf("kept: %v", parts)
	}
}

func TestPins(t *testing.T) {
	for arch, pin := range pins {
		if b, err := hex.DecodeString(pin); err != nil || len(b) != sha256.Size {
			t.Errorf("%s: %q", arch, pin)
		}
	}
}
