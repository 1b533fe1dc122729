// Package icount counts the instructions that a guest executes under QEMU's software emulation: a measure of a boot that
// does not depend on the host's speed. QEMU counts nothing by itself, and distributions ship no plugin that does, so the
// small one in plugin/icount.c is compiled when it is asked for.
package icount

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// The C file is in a directory of its own, as cgo would take it for a part of this package.
//
//go:embed plugin/icount.c
var source embed.FS

const sourceName = "plugin/icount.c"

// apiVersion is the version of the plugin API to ask for. QEMU refuses one outside the range that it supports, which is
// 0-1 up to QEMU 8.2 and begins with 2 from QEMU 9.0 on.
func apiVersion(qemuVersion string) (int, error) {
	first, _, _ := strings.Cut(qemuVersion, ".")
	major, err := strconv.Atoi(first)
	if err != nil {
		return 0, fmt.Errorf("read QEMU's version %q: %w", qemuVersion, err)
	}
	if major >= 9 {
		return 2, nil
	}
	return 1, nil
}

// Build returns the path of the plugin for a version of QEMU, such as "7.2.22". It is compiled with the C compiler cc when
// cacheDir does not have it yet.
func Build(ctx context.Context, cacheDir, qemuVersion string) (string, error) {
	api, err := apiVersion(qemuVersion)
	if err != nil {
		return "", err
	}
	src, err := source.ReadFile(sourceName)
	if err != nil {
		return "", fmt.Errorf("read the plugin's source: %w", err)
	}
	args := []string{"-shared", "-fPIC", "-O2", "-Wall", "-fvisibility=hidden", "-DPLUGIN_API_VERSION=" + strconv.Itoa(api)}
	if runtime.GOOS == "darwin" {
		args = append(args, "-undefined", "dynamic_lookup")
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s %s %q %s", runtime.GOOS, runtime.GOARCH, args, src))
	path := filepath.Join(cacheDir, fmt.Sprintf("icount-%x.so", key[:8]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := compile(ctx, path, src, args); err != nil {
		return "", err
	}
	return path, nil
}

// compile makes the plugin in a temporary directory and renames it into place, so that a half-made one is never used.
func compile(ctx context.Context, path string, src []byte, args []string) error {
	cc, err := exec.LookPath("cc")
	if err != nil {
		return sandbox.Errorf(sandbox.Unavailable, "apt-get install gcc libc6-dev", "counting guest instructions needs a C compiler: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the plugin's directory: %w", err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".icount-")
	if err != nil {
		return fmt.Errorf("make a directory to compile in: %w", err)
	}
	defer os.RemoveAll(dir)
	c, so := filepath.Join(dir, "icount.c"), filepath.Join(dir, "icount.so")
	if err := os.WriteFile(c, src, 0o600); err != nil {
		return fmt.Errorf("write the plugin's source: %w", err)
	}
	out, err := exec.CommandContext(ctx, cc, append(args, "-o", so, c)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("compile the counting plugin: %w\n%s", err, out)
	}
	if err := os.Rename(so, path); err != nil {
		return fmt.Errorf("put the plugin in place: %w", err)
	}
	return nil
}

// Read returns the count in file. It may be read at any moment, while the guest runs and after.
func Read(file string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("read the count of guest instructions: %w", err)
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("read the count of guest instructions: %w", errors.New(file+" is not 8 bytes long"))
	}
	return binary.LittleEndian.Uint64(b), nil
}
