package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// CopyDisk copies a disk into dir, the directory of a manifest to be, and returns what the manifest says of it. Blocks are shared with
// the original where the host's file system can do that, and holes stay holes. Seal has it written to the host's disk.
func CopyDisk(ctx context.Context, dir, path string, role sandbox.DiskRole) (Disk, error) {
	d := Disk{Role: role, File: filepath.Base(path)}
	in, err := os.Open(path)
	if err != nil {
		return d, fmt.Errorf("copy the disk %s: %w", role, err)
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(dir, d.File), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return d, disk.NoSpace(dir, fmt.Errorf("copy the disk %s: %w", role, err))
	}
	if err := errors.Join(disk.CopyContents(ctx, out, in), out.Close()); err != nil {
		return d, disk.NoSpace(dir, fmt.Errorf("copy the disk %s: %w", role, err))
	}
	info, err := in.Stat()
	if err != nil {
		return d, fmt.Errorf("copy the disk %s: %w", role, err)
	}
	d.SizeBytes = info.Size()
	return d, nil
}

// StampDisk is what a manifest says of a disk that stays where it is.
func StampDisk(path string, role sandbox.DiskRole) (Disk, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Disk{}, fmt.Errorf("look at the disk %s: %w", role, err)
	}
	return Disk{Role: role, SizeBytes: info.Size(), Modified: info.ModTime()}, nil
}

// Seal sums up all files that m names, in dir, and has them written to the host's disk. The returned manifest has Files, and is
// to be written then: by Store.Commit, or by Write.
func (c *Checker) Seal(ctx context.Context, dir string, m Manifest) (Manifest, error) {
	m.Version, m.Files = Version, nil
	var paths []string
	for _, name := range m.State.Files {
		paths = append(paths, filepath.Join(StateDir, name))
	}
	for _, d := range m.Disks {
		if d.File != "" {
			paths = append(paths, d.File)
		}
	}
	for _, p := range paths {
		f, err := c.sealFile(ctx, dir, p)
		if err != nil {
			return m, disk.NoSpace(dir, fmt.Errorf("finish a snapshot: %w", err))
		}
		m.Files = append(m.Files, f)
	}
	if err := m.Validate(); err != nil {
		return m, fmt.Errorf("finish a snapshot: its manifest is wrong: %w", err)
	}
	return m, nil
}

func (c *Checker) sealFile(ctx context.Context, dir, name string) (File, error) {
	path := filepath.Join(dir, name)
	f, err := openFile(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return File{}, err
	}
	sum, size, err := Sum(ctx, f)
	if err != nil {
		return File{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return File{}, err
	}
	c.remember(path, seen{stampOf(info), sum})
	return File{Path: name, SizeBytes: size, Sum: sum}, nil
}

// Moved says that a sealed directory has another name.
func (c *Checker) Moved(from, to string, m Manifest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range m.Files {
		old := filepath.Join(from, f.Path)
		if s, ok := c.known[old]; ok {
			c.known[filepath.Join(to, f.Path)] = s
			delete(c.known, old)
		}
	}
}

// Write writes the manifest of a sealed directory that is in another's: with it the directory is whole.
func Write(dir string, m Manifest) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode a manifest: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, manifestFile), append(data, '\n'), 0o600, renameio.WithTempDir(dir)); err != nil {
		return disk.NoSpace(dir, fmt.Errorf("write a manifest: %w", err))
	}
	return SyncDir(dir)
}

// Read reads the manifest of a saved microVM that has its directory in another's. The error is an
// fs.ErrNotExist when there is none.
func Read(dir string) (m Manifest, err error) {
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return m, fmt.Errorf("read a manifest: %w", err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("read the manifest in %s: %w", dir, err)
	}
	if m.Version > Version {
		return m, fmt.Errorf("read the manifest in %s: it was written by a newer agentkernel (version %d, this one reads up to %d)", dir, m.Version, Version)
	}
	if err := m.Validate(); err != nil {
		return m, fmt.Errorf("read the manifest in %s: %w", dir, err)
	}
	return m, nil
}

// SyncDir has the names in a directory written to the host's disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync a directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
