package image

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/erofs/go-erofs"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// fakeBusybox is a static program of a kind, with a list of applets in it, that does nothing.
func fakeBusybox(machine elf.Machine, applets ...string) []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}, Type: uint16(elf.ET_EXEC),
		Machine: uint16(machine), Version: 1, Ehsize: 64, Phentsize: 56,
	})
	b.WriteString("BusyBox v1.2.3 (test)\x00" + strings.Join(applets, "\x00") + "\x00\x00tail")
	return b.Bytes()
}

var someApplets = []string{"[", "[[", "busybox", "cat", "env", "ls", "sh", "wc", "xargs"}

func write(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// hostArch is the architecture that this runs on.
func hostArch() sandbox.Arch {
	if runtime.GOARCH == "arm64" {
		return sandbox.AArch64
	}
	return sandbox.X8664
}

// compiledBefore is a cache in which what base has compiled for an architecture is a text.
func compiledBefore(t testing.TB, arch sandbox.Arch) string {
	t.Helper()
	r, err := readRecipe("base")
	if err != nil {
		t.Fatal(err)
	}
	version, err := toolchain(arch).version(context.Background())
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	made := filepath.Join(dir, "built-"+r.compile.key(arch, version))
	bin, core := filepath.Join(made, compiledRoot, "usr/bin"), filepath.Join(made, compiledRoot, "usr/lib/git-core")
	if err := errors.Join(os.MkdirAll(bin, 0o755), os.MkdirAll(core, 0o700), os.WriteFile(filepath.Join(bin, "git"), []byte("git"), 0o700),
		os.Symlink("../../bin/git", filepath.Join(core, "git")), os.WriteFile(filepath.Join(made, compiledSources), []byte("git 1\ncurl 2"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBuildBase(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "images"))
	arch := hostArch()
	program := fakeBusybox(arches[arch].machine, someApplets...)
	m, err := s.Build(context.Background(), "base", BuildOptions{Arch: arch, Busybox: write(t, program), CacheDir: compiledBefore(t, arch)})
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "base" || m.Arch != arch || m.FS != Erofs || !strings.Contains(m.Source, "BusyBox v1.2.3") {
		t.Errorf("%+v", m)
	}
	img, err := s.Resolve(context.Background(), "base", arch)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tree, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		mode     fs.FileMode
		uid, gid uint32
	}{
		".":                 {fs.ModeDir | 0o755, 0, 0},
		"home/agent":        {fs.ModeDir | 0o750, 1000, 1000},
		"root":              {fs.ModeDir | 0o700, 0, 0},
		"tmp":               {fs.ModeDir | fs.ModeSticky | 0o777, 0, 0},
		"etc/shadow":        {0o640, 0, 42},
		"etc/passwd":        {0o644, 0, 0},
		"usr/bin/busybox":   {0o755, 0, 0},
		"proc":              {fs.ModeDir | 0o555, 0, 0},
		"usr/bin/git":       {0o755, 0, 0},
		"usr/lib/git-core":  {fs.ModeDir | 0o755, 0, 0},
		"usr/local/sbin":    {fs.ModeDir | 0o755, 0, 0},
		"etc/os-release":    {0o644, 0, 0},
		"etc/nsswitch.conf": {0o644, 0, 0},
	} {
		info, err := fs.Stat(tree, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		st, ok := info.Sys().(*erofs.Stat) // info.Mode itself lacks the sticky bit
		if !ok || st.Mode != want.mode || st.UID != want.uid || st.GID != want.gid || !info.ModTime().Equal(buildTime) {
			t.Errorf("%s: mode %v, owner %d:%d, time %v; want %+v", path, st.Mode, st.UID, st.GID, info.ModTime(), want)
		}
	}
	for path, want := range map[string]string{"bin": "usr/bin", "usr/bin/sh": "busybox", "usr/bin/[": "busybox", "usr/sbin": "bin", "etc/mtab": "/proc/self/mounts"} {
		if got, err := fs.ReadLink(tree, path); err != nil || got != want {
			t.Errorf("%s → %q, %v; want %q", path, got, err, want)
		}
	}
	if got, err := fs.ReadFile(tree, "usr/bin/busybox"); err != nil || !bytes.Equal(got, program) {
		t.Errorf("busybox is not the one that was given (%v)", err)
	}
	if fsck, err := exec.LookPath("fsck.erofs"); err == nil {
		if out, err := exec.Command(fsck, img.Path).CombinedOutput(); err != nil {
			t.Errorf("fsck.erofs: %v\n%s", err, out)
		}
	}
}

// TestBuildIsReproducible builds in two places, under two umasks, from files with different times.
func TestBuildIsReproducible(t *testing.T) {
	var digests []string
	program, cache := write(t, fakeBusybox(elf.EM_X86_64, someApplets...)), compiledBefore(t, sandbox.X8664)
	for _, mask := range []int{0o022, 0o077} {
		old := syscall.Umask(mask)
		s := Open(filepath.Join(t.TempDir(), "images"))
		m, err := s.Build(context.Background(), "base", BuildOptions{Arch: sandbox.X8664, Busybox: program, CacheDir: cache})
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, m.Digest)
		assertNoTemporaries(t, s)
	}
	if digests[0] != digests[1] {
		t.Errorf("%q", digests)
	}
}

// TestBuildFromTheHostsBusybox is the real thing, where busybox-static is installed.
func TestBuildFromTheHostsBusybox(t *testing.T) {
	arch := hostArch()
	program, path, err := findBusybox(context.Background(), "", arch, t.TempDir(), func(line string) { t.Log(line) })
	if err != nil {
		t.Skip(err)
	}
	applets, err := appletsOf(program)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Fields(string(out)); !slices.Equal(applets, want) {
		t.Errorf("applets %q, and busybox itself says %q", applets, want)
	}
	m, err := Open(t.TempDir()).Build(context.Background(), "base", BuildOptions{Arch: arch, CacheDir: compiledBefore(t, arch)})
	if err != nil || m.Size > 3_000_000 || !strings.Contains(m.Source, "git 1, curl 2") {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestBuildErrors(t *testing.T) {
	s := Open(filepath.Join(t.TempDir(), "images"))
	ctx := context.Background()
	_, err := s.Build(ctx, "perl", BuildOptions{Arch: sandbox.X8664})
	wantKind(t, "unknown recipe", err, sandbox.NotFound, "base")
	_, err = s.Build(ctx, "../base", BuildOptions{Arch: sandbox.X8664})
	wantKind(t, "path as a recipe", err, sandbox.NotFound)
	_, err = s.Build(ctx, "base", BuildOptions{Arch: "vax"})
	wantKind(t, "unknown architecture", err, sandbox.Invalid, "x86_64 or aarch64")

	dynamic := fakeBusybox(elf.EM_X86_64, someApplets...)
	binary.LittleEndian.PutUint64(dynamic[32:], uint64(len(dynamic))) // e_phoff
	binary.LittleEndian.PutUint16(dynamic[56:], 1)                    // e_phnum
	var ph bytes.Buffer
	_ = binary.Write(&ph, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_INTERP)})
	dynamic = append(dynamic, ph.Bytes()...)
	for name, tc := range map[string]struct {
		program []byte
		want    string
	}{
		"text":                 {[]byte("#!/bin/sh\n"), "not an ELF program"},
		"empty":                {nil, "not an ELF program"},
		"other architecture":   {fakeBusybox(elf.EM_AARCH64, someApplets...), "program for EM_AARCH64, and the image is for x86_64"},
		"dynamic":              {dynamic, "needs shared libraries"},
		"not busybox":          {fakeBusybox(elf.EM_X86_64), "no list of applets"},
		"few applets":          {fakeBusybox(elf.EM_X86_64, "[", "[[", "cat"), "lacks the applet env"},
		"an applet with slash": {fakeBusybox(elf.EM_X86_64, "[", "[[", "a/../b"), "not understood"},
		"unsorted applets":     {fakeBusybox(elf.EM_X86_64, "[", "[[", "b", "a"), "not understood"},
		"truncated":            {fakeBusybox(elf.EM_X86_64, someApplets...)[:40], "not an ELF program"},
	} {
		_, err := s.Build(ctx, "base", BuildOptions{Arch: sandbox.X8664, Busybox: write(t, tc.program)})
		wantKind(t, name, err, sandbox.Invalid, tc.want, "busybox-static")
	}
	if list, _, err := s.List(); len(list) != 0 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
}

func TestParseRecipe(t *testing.T) {
	for _, bad := range []string{
		"device /dev/null 666 0 0", "dir /a 755 0", "dir /a 755 0 0 x", "dir a 755 0 0", "dir /a/ 755 0 0", "dir /a/../b 755 0 0",
		"dir /a 999 0 0", "dir /a 4755 0 0", "dir /a 755 -1 0", "dir /a 755 0 70000", "link /a", "file /a 644 0 0", "applets",
		"include", "include nothing", "suite a b", "drop usr", "drop /[", "npm name 1.0", "sources trixie", "unpack trixie", "build no-such-script", "build", "strip usr",
		"unneed", "unneed lib.so", "unneed lib.so usr",
	} {
		if e, err := parseRecipe([]byte("# comment\n\n"+bad), fstest.MapFS{}); err == nil || !strings.HasPrefix(err.Error(), "line 3: ") {
			t.Errorf("%q: %+v, %v", bad, e, err)
		}
	}
	for name, text := range map[string]string{
		"twice":             "dir /a 755 0 0\nlink /a b",
		"without directory": "dir / 755 0 0\nlink /a/b c",
		"below a link":      "link /a b\nlink /a/b c",
	} {
		r, err := parseRecipe([]byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := expand(r.entries, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, text := range []string{"suite trixie", "packages git", "sources trixie git"} {
		if _, err := parseRecipe([]byte(text), nil); err == nil {
			t.Errorf("%q alone: no error", text)
		}
	}
	if !slices.Equal(Recipes(), []string{"base", "go", "node", "python", "rust"}) {
		t.Errorf("recipes %q", Recipes())
	}
	for _, name := range Recipes() {
		if _, err := readRecipe(name); err != nil {
			t.Error(err)
		}
	}
}

func FuzzAppletsOf(f *testing.F) {
	f.Add(fakeBusybox(elf.EM_X86_64, someApplets...))
	f.Add([]byte("\x00[\x00[[\x00a\x00"))
	f.Fuzz(func(t *testing.T, program []byte) {
		names, err := appletsOf(program)
		if err == nil && (len(names) < 6 || slices.ContainsFunc(names, func(n string) bool { return n == "" || strings.Contains(n, "/") })) {
			t.Fatalf("%q", names)
		}
		_ = checkStatic(program, sandbox.X8664)
	})
}
