package firecracker

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Names of the executables.
const (
	program       = "firecracker"
	jailerProgram = "jailer"
)

// minVersion is the oldest Firecracker that the client speaks to.
var minVersion = fcapi.Version{Major: 1, Minor: 10}

const installHint = "agentkernel setup installs Firecracker"

const jailerHint = "agentkernel setup installs Firecracker with its jailer"

// binary is an installed Firecracker or jailer.
type binary struct {
	path    string // absolute
	version fcapi.Version
	dynamic bool // needs the libraries of this host; releases do not
}

// binaries finds Firecracker and remembers what it has learnt about it.
type binaries struct {
	dir   string // is looked in first; may be missing
	mu    sync.Mutex
	known map[string]knownBinary // by path
}

// knownBinary is forgotten when the file is another one.
type knownBinary struct {
	binary
	info os.FileInfo
}

// find returns the first Firecracker that can be used, of the one in dir and those in PATH.
func (b *binaries) find(ctx context.Context) (binary, error) {
	var first error
	for _, path := range candidates(b.dir, program) {
		bin, err := b.look(ctx, path)
		if err == nil && bin.version.Compare(minVersion) < 0 {
			err = sandbox.Errorf(sandbox.Unavailable, installHint, "%s is Firecracker %s, and at least %s is needed", path, bin.version, minVersion)
		}
		if err == nil {
			return bin, nil
		}
		if ctx.Err() != nil {
			return binary{}, context.Cause(ctx)
		}
		if first == nil && !errors.Is(err, fs.ErrNotExist) {
			first = err
		}
	}
	if first == nil {
		first = sandbox.Errorf(sandbox.Unavailable, installHint, "there is no %s in PATH", program)
	}
	return binary{}, first
}

// jailerOf returns the jailer that belongs to a Firecracker: the one beside it or the first in PATH that is of the same version. When
// there are only others, the error is about the first of them.
func (b *binaries) jailerOf(ctx context.Context, bin binary) (_ binary, found bool, _ error) {
	var first error
	for _, path := range candidates(filepath.Dir(bin.path), jailerProgram) {
		jailer, err := b.look(ctx, path)
		if err == nil && jailer.version != bin.version {
			err = sandbox.Errorf(sandbox.Unavailable, fmt.Sprintf("put the jailer of the release v%s beside %s", bin.version, bin.path),
				"%s is of version %s, and %s of version %s: a jailer runs the Firecracker of its own release only", path, jailer.version, bin.path, bin.version)
		}
		if err == nil {
			return jailer, true, nil
		}
		if ctx.Err() != nil {
			return binary{}, false, context.Cause(ctx)
		}
		if first == nil && !errors.Is(err, fs.ErrNotExist) {
			first = err
		}
	}
	return binary{}, false, first
}

// candidates are the paths where a program could be. A relative entry in PATH would let the current directory choose it, so
// that is left out.
func candidates(dir, name string) []string {
	var paths []string
	if dir != "" {
		paths = append(paths, filepath.Join(dir, name))
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths
}

// look returns what is at path; fs.ErrNotExist when there is nothing.
func (b *binaries) look(ctx context.Context, path string) (binary, error) {
	info, err := os.Stat(path)
	if err != nil {
		return binary{}, fmt.Errorf("look for %s: %w", filepath.Base(path), err)
	}
	if info.IsDir() {
		return binary{}, fmt.Errorf("%s is a directory: %w", path, fs.ErrNotExist)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if k, ok := b.known[path]; ok && os.SameFile(k.info, info) && k.info.ModTime().Equal(info.ModTime()) && k.info.Mode() == info.Mode() {
		return k.binary, nil
	}
	bin, err := inspect(ctx, path)
	if err != nil {
		return binary{}, err
	}
	if b.known == nil {
		b.known = make(map[string]knownBinary)
	}
	b.known[path] = knownBinary{binary: bin, info: info}
	return bin, nil
}

// inspect asks a Firecracker or a jailer, as its file is named, for its version.
func inspect(ctx context.Context, path string) (binary, error) {
	name, hint := "Firecracker", installHint
	if filepath.Base(path) == jailerProgram {
		name, hint = "Jailer", jailerHint
	}
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Dir = "/"
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return binary{}, context.Cause(ctx)
	case errors.Is(err, fs.ErrPermission):
		return binary{}, sandbox.Errorf(sandbox.Unavailable, "sudo chmod 755 "+path, "%s cannot be executed: %w", path, err)
	case errors.Is(err, syscall.ENOEXEC):
		return binary{}, sandbox.Errorf(sandbox.Unavailable, fmt.Sprintf("install the release for %s", hostArch()), "%s is a program for another architecture, or none at all: %w", path, err)
	case err != nil:
		return binary{}, sandbox.Errorf(sandbox.Unavailable, hint, "ask %s for its version: %w", path, err)
	}
	version, err := readVersion(string(out), name)
	if err != nil {
		return binary{}, sandbox.Errorf(sandbox.Unavailable, hint, "ask %s for its version: %w", path, err)
	}
	return binary{path: path, version: version, dynamic: isDynamic(path)}, nil
}

// isDynamic reports whether a program names the loader of libraries that is to run it.
func isDynamic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// readVersion reads "Firecracker v1.16.1" or "Jailer v1.16.1" at the begin of what it prints.
func readVersion(out, name string) (fcapi.Version, error) {
	line, _, _ := strings.Cut(out, "\n")
	word, ok := strings.CutPrefix(strings.TrimSpace(line), name+" ")
	if !ok {
		return fcapi.Version{}, fmt.Errorf("%.80q names no version", line)
	}
	return fcapi.ParseVersion(word)
}

// ProgramVersion asks a firecracker or jailer, by which its file is named, for its version, such as "1.16.1".
func ProgramVersion(ctx context.Context, path string) (string, error) {
	bin, err := inspect(ctx, path)
	if err != nil {
		return "", err
	}
	return bin.version.String(), nil
}

// Program is a firecracker or a jailer that is installed.
type Program struct {
	Name    string
	Path    string
	Version fcapi.Version
	Err     error // why it cannot be used; then the rest but Name may be empty
}

// Programs are the firecracker and the jailer that an engine with this directory would use. What is not there at all is left
// out.
func Programs(ctx context.Context, dir string) []Program {
	var b binaries
	b.dir = dir
	bin, err := b.find(ctx)
	if err != nil {
		for _, path := range candidates(dir, program) {
			if _, statErr := os.Stat(path); statErr == nil {
				return []Program{{Name: program, Err: err}}
			}
		}
		return nil
	}
	found := []Program{{Name: program, Path: bin.path, Version: bin.version}}
	jailer, ok, err := b.jailerOf(ctx, bin)
	if ok || err != nil {
		found = append(found, Program{Name: jailerProgram, Path: jailer.path, Version: jailer.version, Err: err})
	}
	return found
}
