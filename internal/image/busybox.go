package image

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// maxBusybox is how large a busybox may be, in bytes. Debian's has 2 MiB.
const maxBusybox = 32 << 20

// arches says how the rest of the world calls an architecture.
var arches = map[sandbox.Arch]struct {
	machine elf.Machine
	goarch  string
	debian  string
}{
	sandbox.X8664:   {elf.EM_X86_64, "amd64", "amd64"},
	sandbox.AArch64: {elf.EM_AARCH64, "arm64", "arm64"},
}

// hostBusybox is where Debian's busybox-static puts the program.
var hostBusybox = []string{"/bin/busybox", "/usr/bin/busybox"}

// findBusybox returns a static busybox for arch: path if that is given, else this host's own when it fits, else Debian's
// package for that architecture, which is downloaded into cacheDir. said is told about the download.
func findBusybox(ctx context.Context, path string, arch sandbox.Arch, cacheDir string, said func(string)) (program []byte, from string, err error) {
	if path != "" {
		program, err = readBusybox(path, arch)
		return program, path, err
	}
	if runtime.GOOS == "linux" && arches[arch].goarch == runtime.GOARCH {
		for _, path := range hostBusybox {
			program, err = readBusybox(path, arch)
			if err == nil {
				return program, path, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				break // there is one, and err says what is wrong with it
			}
		}
		return nil, "", sandbox.Errorf(sandbox.Unavailable, "apt-get install busybox-static, or name the program with --busybox", "there is no static busybox on this host: %w", err)
	}
	path, err = downloadBusybox(ctx, arch, cacheDir, said)
	if err != nil {
		return nil, "", err
	}
	program, err = readBusybox(path, arch)
	return program, filepath.Base(path), err
}

// readBusybox reads a program and checks that it can run in a guest of arch without any library.
func readBusybox(path string, arch sandbox.Arch) ([]byte, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBusybox+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if err := checkStatic(data, arch); err != nil {
		return nil, sandbox.Errorf(sandbox.Invalid, "use the program of Debian's package busybox-static", "%s cannot be used: %w", path, err)
	}
	return data, nil
}

func checkStatic(program []byte, arch sandbox.Arch) error {
	if len(program) > maxBusybox {
		return fmt.Errorf("it has more than %d MiB", maxBusybox>>20)
	}
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("it is not an ELF program: %w", err)
	}
	defer f.Close()
	if f.Class != elf.ELFCLASS64 || f.Machine != arches[arch].machine {
		return fmt.Errorf("it is a program for %s, and the image is for %s", f.Machine, arch)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fmt.Errorf("its ELF type is %s", f.Type)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it needs shared libraries")
		}
	}
	_, err = appletsOf(program)
	return err
}

// appletsOf returns the names of a busybox's applets. They stand in the program in sorted order, each ended by a NUL
// (applet_names in busybox's include/applet_tables.h), so that a program of another architecture can be asked too.
func appletsOf(program []byte) ([]string, error) {
	start := bytes.Index(program, []byte("\x00[\x00[[\x00"))
	if start < 0 {
		return nil, errors.New("it does not look like busybox: there is no list of applets in it")
	}
	var names []string
	for rest := program[start+1:]; ; {
		name, after, ok := bytes.Cut(rest, []byte{0})
		if !ok || len(name) == 0 {
			break
		}
		if len(name) > 64 || bytes.ContainsAny(name, "/ ") || len(names) > 0 && names[len(names)-1] >= string(name) {
			return nil, fmt.Errorf("its list of applets is not understood at %.20q", name)
		}
		names = append(names, string(name))
		rest = after
	}
	for _, needed := range []string{"cat", "env", "ls", "sh", "wc", "xargs"} {
		if !slices.Contains(names, needed) {
			return nil, fmt.Errorf("it lacks the applet %s", needed)
		}
	}
	return names, nil
}

// downloadBusybox gets Debian's busybox-static for an architecture that is not this host's.
func downloadBusybox(ctx context.Context, arch sandbox.Arch, cacheDir string, said func(string)) (string, error) {
	deb := arches[arch].debian
	path := filepath.Join(cacheDir, "busybox-static-"+deb)
	if _, err := readBusybox(path, arch); err == nil {
		return path, nil
	}
	fail := func(err error) (string, error) {
		return "", sandbox.Errorf(sandbox.Unavailable, "name a static busybox for it with --busybox", "a busybox for %s cannot be downloaded from this host's apt sources: %w", arch, err)
	}
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		return "", fmt.Errorf("make the cache: %w", err)
	}
	dir, err := os.MkdirTemp(cacheDir, ".apt-*")
	if err != nil {
		return "", fmt.Errorf("make room for apt: %w", err)
	}
	defer os.RemoveAll(dir)
	a, err := newApt(dir, arch)
	if err != nil {
		return fail(err)
	}
	said(fmt.Sprintf("downloading busybox-static for %s from this host's apt sources (about 10 MB, once)", arch))
	if err := a.run(ctx, dir, "update"); err != nil {
		return fail(err)
	}
	if err := a.unpack(ctx, "busybox-static:"+deb, filepath.Join(dir, "root")); err != nil {
		return fail(err)
	}
	for _, p := range hostBusybox {
		p = filepath.Join(dir, "root", p)
		if _, err := readBusybox(p, arch); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return fail(err)
		}
		if err := os.Rename(p, path); err != nil {
			return "", fmt.Errorf("keep the downloaded busybox: %w", err)
		}
		return path, nil
	}
	return fail(errors.New("there is no busybox in the package"))
}

// run runs a program, whose output is part of the error when it fails.
func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return failed(name, err, string(out))
	}
	return nil
}
