package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// minMajor is the oldest QEMU that has all that the command line asks for.
const minMajor = 6

// seccompOptions confine QEMU to the system calls that it needs once it runs: no new processes, no other user, no
// obsolete calls, no change of its own scheduling.
const seccompOptions = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// binary is an installed QEMU.
type binary struct {
	path    string // absolute
	version string // e.g. 7.2.22
	build   string // with who has built it, e.g. 7.2.22 (Debian 1:7.2+dfsg-7)
	seccomp bool   // was built with -sandbox
}

// binaries finds the QEMU of each architecture in PATH and remembers what it has learnt about it.
type binaries struct {
	mu    sync.Mutex
	known map[string]knownBinary // by path
}

// knownBinary is forgotten when the file is another one.
type knownBinary struct {
	binary
	info os.FileInfo
}

func (b *binaries) find(ctx context.Context, arch sandbox.Arch) (binary, error) {
	name := "qemu-system-" + string(arch)
	path, err := exec.LookPath(name)
	if err != nil {
		return binary{}, sandbox.Errorf(sandbox.Unavailable, installHint(arch), "find %s in PATH: %w", name, err)
	}
	if !filepath.IsAbs(path) { // a relative entry in PATH would let the current directory choose the program
		return binary{}, sandbox.Errorf(sandbox.Unavailable, "put absolute directories in PATH", "%s is found only by a relative entry of PATH (%s)", name, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return binary{}, fmt.Errorf("look at %s: %w", path, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if k, ok := b.known[path]; ok && os.SameFile(k.info, info) && k.info.ModTime().Equal(info.ModTime()) {
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

// inspect asks a QEMU for its version. It is asked with the sandbox options first: one that was built without them refuses.
func inspect(ctx context.Context, path string) (binary, error) {
	bin := binary{path: path, seccomp: true}
	out, err := exec.CommandContext(ctx, path, "-sandbox", seccompOptions, "--version").Output()
	if err != nil && ctx.Err() == nil {
		bin.seccomp = false
		out, err = exec.CommandContext(ctx, path, "--version").Output()
	}
	if ctx.Err() != nil {
		return binary{}, context.Cause(ctx)
	}
	if err != nil {
		return binary{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	if bin.version, err = parseVersion(string(out)); err != nil {
		return binary{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	bin.build = parseBuild(string(out))
	if !bin.atLeast(minMajor, 0) {
		return binary{}, sandbox.Errorf(sandbox.Unavailable, "install a newer QEMU", "%s is QEMU %s, and at least %d.0 is needed", path, bin.version, minMajor)
	}
	return bin, nil
}

// parseVersion reads "QEMU emulator version 7.2.22 (…)".
func parseVersion(out string) (string, error) {
	_, rest, ok := strings.Cut(out, "version ")
	end := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end >= 0 {
		rest = rest[:end]
	}
	if !ok || rest == "" || rest[0] == '.' {
		return "", fmt.Errorf("%.80q names no version", out)
	}
	return strings.TrimRight(rest, "."), nil
}

// parseBuild reads all of the first line that follows the word "version".
func parseBuild(out string) string {
	line, _, _ := strings.Cut(out, "\n")
	_, build, _ := strings.Cut(line, "version ")
	return strings.TrimSpace(build)
}

// atLeast reports whether the version is that or a later one.
func (b binary) atLeast(major, minor int) bool {
	parts := strings.SplitN(b.version, ".", 3)
	have := [2]int{}
	for i := range min(len(parts), len(have)) {
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return false
		}
		have[i] = n
	}
	return have[0] > major || have[0] == major && have[1] >= minor
}

func installHint(arch sandbox.Arch) string {
	switch {
	case runtime.GOOS == "darwin":
		return "brew install qemu"
	case arch == sandbox.AArch64:
		return "sudo apt-get install qemu-system-arm"
	}
	return "sudo apt-get install qemu-system-x86"
}
