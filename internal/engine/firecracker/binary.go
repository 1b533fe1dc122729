package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// program is the name of the executable.
const program = "firecracker"

// minVersion is the oldest Firecracker that the client speaks to.
var minVersion = fcapi.Version{Major: 1, Minor: 10}

const installHint = "install Firecracker 1.10 or newer: put the binary of a release (github.com/firecracker-microvm/firecracker/releases), named firecracker, into a directory of PATH"

// binary is an installed Firecracker.
type binary struct {
	path    string // absolute
	version fcapi.Version
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
	for _, path := range b.candidates() {
		bin, err := b.look(ctx, path)
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

// candidates are the paths where a Firecracker could be. A relative entry in PATH would let the current directory choose the
// program, so it is left out.
func (b *binaries) candidates() []string {
	var paths []string
	if b.dir != "" {
		paths = append(paths, filepath.Join(b.dir, program))
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(dir) {
			paths = append(paths, filepath.Join(dir, program))
		}
	}
	return paths
}

// look returns what is at path; fs.ErrNotExist when there is nothing.
func (b *binaries) look(ctx context.Context, path string) (binary, error) {
	info, err := os.Stat(path)
	if err != nil {
		return binary{}, fmt.Errorf("look for Firecracker: %w", err)
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

// inspect asks a Firecracker for its version.
func inspect(ctx context.Context, path string) (binary, error) {
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
		return binary{}, sandbox.Errorf(sandbox.Unavailable, installHint, "ask %s for its version: %w", path, err)
	}
	version, err := readVersion(string(out))
	if err != nil {
		return binary{}, sandbox.Errorf(sandbox.Unavailable, installHint, "ask %s for its version: %w", path, err)
	}
	if version.Compare(minVersion) < 0 {
		return binary{}, sandbox.Errorf(sandbox.Unavailable, installHint, "%s is Firecracker %s, and at least %s is needed", path, version, minVersion)
	}
	return binary{path: path, version: version}, nil
}

// readVersion reads "Firecracker v1.16.1" at the begin of what it prints.
func readVersion(out string) (fcapi.Version, error) {
	line, _, _ := strings.Cut(out, "\n")
	word, ok := strings.CutPrefix(strings.TrimSpace(line), "Firecracker ")
	if !ok {
		return fcapi.Version{}, fmt.Errorf("%.80q names no version", line)
	}
	return fcapi.ParseVersion(word)
}
