// Package initramfs makes the archive that a guest's kernel unpacks and starts: the guest agent as /init, and the
// directories that it mounts on. The agents of both architectures are built into this package by scripts/build-guest.sh.
//
// The archive is not compressed: the agent would have to be unpacked by the guest's kernel at each boot, and the host keeps
// one copy in its page cache however many microVMs start from it.
package initramfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cavaliergopher/cpio"
	"github.com/google/renameio/v2"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

//go:embed all:bin
var agents embed.FS

// directories are what the agent mounts on before it has the sandbox's own root.
var directories = []string{"dev", "proc", "sys", "lower", "project", "root", "run", "tmp", "upper"}

// Path returns the path of the initramfs for arch in cacheDir, which is made when it does not exist; so is the file, whose
// name is made from its content. The error is a *sandbox.Error of kind Unavailable when this build has no agent for arch.
func Path(ctx context.Context, cacheDir string, arch sandbox.Arch) (string, error) {
	agent, err := agentFor(agents, arch)
	if err != nil {
		return "", err
	}
	return store(ctx, cacheDir, arch, agent)
}

func agentFor(fsys fs.FS, arch sandbox.Arch) ([]byte, error) {
	goarch, ok := map[sandbox.Arch]string{sandbox.X8664: "amd64", sandbox.AArch64: "arm64"}[arch]
	if !ok {
		return nil, sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("choose %s or %s", sandbox.X8664, sandbox.AArch64), "unknown architecture %q", arch)
	}
	agent, err := fs.ReadFile(fsys, "bin/akguest-"+goarch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sandbox.Errorf(sandbox.Unavailable, "build it with make build", "this agentkernel was built without a guest agent for %s", arch)
	}
	if err != nil {
		return nil, fmt.Errorf("read the guest agent: %w", err)
	}
	return agent, nil
}

func store(ctx context.Context, cacheDir string, arch sandbox.Arch, agent []byte) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	archive, err := build(agent)
	if err != nil {
		return "", fmt.Errorf("make the initramfs: %w", err)
	}
	sum := sha256.Sum256(archive)
	path := filepath.Join(cacheDir, "initramfs-"+hex.EncodeToString(sum[:8])+"."+string(arch))
	if holds(path, sum) {
		return path, nil
	}
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		return "", fmt.Errorf("make the directory of the initramfs: %w", err)
	}
	if err := renameio.WriteFile(path, archive, 0o600, renameio.WithTempDir(cacheDir)); err != nil {
		return "", fmt.Errorf("write the initramfs: %w", err)
	}
	return path, nil
}

func holds(path string, sum [sha256.Size]byte) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false
	}
	return bytes.Equal(h.Sum(nil), sum[:])
}

// build returns the archive in the kernel's format "newc": Documentation/driver-api/early-userspace/buffer-format.rst. The
// same agent gives the same bytes. /dev/console, which the kernel opens for /init, is in the archive that is part of it.
func build(agent []byte) ([]byte, error) {
	var buf bytes.Buffer
	w := cpio.NewWriter(&buf)
	for _, d := range directories {
		if err := w.WriteHeader(&cpio.Header{Name: d, Mode: cpio.TypeDir | 0o755, Links: 2}); err != nil {
			return nil, err
		}
	}
	if err := w.WriteHeader(&cpio.Header{Name: "init", Mode: cpio.TypeReg | 0o755, Links: 1, Size: int64(len(agent))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(agent); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
