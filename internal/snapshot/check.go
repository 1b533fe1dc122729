package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Checker compares the files of snapshots with their manifests. It reads a file once in its own life, which is that of a daemon, and
// again when its inode, size, or time of the last change of content or inode is another: whatever writes to a file, or puts another
// in its place, changes one of these. What it does not see is a disk that forgets what it has held, between two checks.
type Checker struct {
	mu      sync.Mutex
	known   map[string]seen // by path
	digests map[string]seen // SHA-256 by path, of what no snapshot has
}

type seen struct {
	stamp stamp
	sum   string
}

// Check returns an *Error of kind Failure that names the file when one of the files of m, in dir, is not what it has to be.
func (c *Checker) Check(ctx context.Context, dir string, m Manifest) error {
	for _, f := range m.Files {
		if err := c.check(ctx, filepath.Join(dir, f.Path), f); err != nil {
			return err
		}
	}
	return nil
}

func (c *Checker) check(ctx context.Context, path string, want File) error {
	f, err := openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("the file %s is missing", path)
	}
	if err != nil {
		return fmt.Errorf("check a snapshot: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("check a snapshot: %w", err)
	}
	if info.Size() != want.SizeBytes {
		return damaged("the file %s has %d bytes, and had %d when it was saved", path, info.Size(), want.SizeBytes)
	}
	now := stampOf(info)
	c.mu.Lock()
	have, ok := c.known[path]
	c.mu.Unlock()
	if !ok || have.stamp != now {
		sum, _, err := Sum(ctx, f)
		if err != nil {
			return fmt.Errorf("check a snapshot: %w", err)
		}
		have = seen{now, sum}
		c.remember(path, have)
	}
	if have.sum != want.Sum {
		return damaged("what is in the file %s is not what was saved (its checksum is %s, and was %s)", path, have.sum, want.Sum)
	}
	return nil
}

func damaged(format string, args ...any) error {
	return sandbox.Errorf(sandbox.Failure, "take another snapshot; this one cannot be used", "the saved microVM is damaged: "+format, args...)
}

func (c *Checker) remember(path string, s seen) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[string]seen{}
	}
	c.known[path] = s
}

// Forget is to be called for a directory that is gone, or has another name.
func (c *Checker) Forget(dir string, m Manifest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range m.Files {
		delete(c.known, filepath.Join(dir, f.Path))
	}
}

// Changed says which of the disks that stay where they are is not as it was when the microVM was saved, or "". path finds a disk.
func (m Manifest) Changed(path func(sandbox.DiskRole) (string, error)) (sandbox.DiskRole, error) {
	for _, d := range m.Disks {
		if d.File != "" {
			continue
		}
		p, err := path(d.Role)
		if err != nil {
			return "", err
		}
		info, err := os.Stat(p)
		if err != nil {
			return "", fmt.Errorf("look at the disk %s: %w", d.Role, err)
		}
		if info.Size() != d.SizeBytes || !info.ModTime().Equal(d.Modified) {
			return d.Role, nil
		}
	}
	return "", nil
}
