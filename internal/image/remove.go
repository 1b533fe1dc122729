package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/filelock"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// pruneAge is how old a temporary file must be before Prune takes it for one that a crash has left.
const pruneAge = time.Hour

// Hold keeps images from being removed until unlock is called. Whoever makes use of an image that he has found in the store
// holds it until everybody can see that it is in use.
func (s *Store) Hold(ctx context.Context) (unlock func(), err error) {
	path, err := s.lockPath()
	if err != nil {
		return nil, err
	}
	return filelock.Share(ctx, path, nil)
}

// Exclude waits until nobody holds images, and keeps everybody from it until unlock is called. Remove and Prune are to be
// called in between, and what is in use is to be asked for in between, too. waiting is called when somebody does hold them.
func (s *Store) Exclude(ctx context.Context, waiting func()) (unlock func(), err error) {
	path, err := s.lockPath()
	if err != nil {
		return nil, err
	}
	return filelock.Lock(ctx, path, waiting)
}

func (s *Store) lockPath() (string, error) {
	dir := filepath.Join(s.root, "locks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the image store: %w", err)
	}
	return filepath.Join(dir, "images.lock"), nil
}

// Remove takes a name out of the store, and deletes the image unless it has another name or inUse claims it. It returns how many
// bytes of the host's disk that gave back. The caller has called Exclude.
func (s *Store) Remove(name string, arch sandbox.Arch, inUse func(digest string) bool) (freed int64, err error) {
	names, err := namesOf(name)
	if err := errors.Join(err, validateArch(arch)); err != nil {
		return 0, err
	}
	for _, n := range names {
		m, err := s.readManifest(n, arch)
		known := err == nil
		err = os.Remove(s.manifestPath(n, arch))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("remove image %s: %w", n, err)
		}
		if !known || inUse(m.Digest) {
			return 0, nil
		}
		images, problems, err := s.List()
		if err != nil || len(problems) > 0 {
			return 0, err // what cannot be read may name it
		}
		for _, other := range images {
			if other.Digest == m.Digest {
				return 0, nil
			}
		}
		digits, err := hexOf(m.Digest)
		if err != nil {
			return 0, err
		}
		return removeFile(filepath.Join(s.blobDir(), digits))
	}
	_, err = s.Get(name, arch) // says what there is
	return 0, err
}

// Prune removes what no name stands for and inUse does not claim, and what crashes have left for more than an hour, and returns
// how many bytes of the host's disk that gave back. With a manifest that cannot be read it removes nothing: it may name
// anything. The caller has called Exclude.
func (s *Store) Prune(inUse func(digest string) bool) (freed int64, err error) {
	images, problems, err := s.List()
	if err != nil {
		return 0, err
	}
	if len(problems) > 0 {
		return 0, sandbox.Errorf(sandbox.Failure, "repair or delete it first", "images cannot be pruned: %s", problems[0])
	}
	named := map[string]bool{}
	for _, m := range images {
		named[m.Digest] = true
	}
	entries, err := os.ReadDir(s.blobDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("prune images: %w", err)
	}
	for _, e := range entries {
		digest := "sha256:" + e.Name()
		if named[digest] || inUse(digest) {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // gone already, or not ours
		}
		if _, err := hexOf(digest); err != nil && time.Since(info.ModTime()) < pruneAge {
			continue // temporary: somebody writes it
		}
		n, err := removeFile(filepath.Join(s.blobDir(), e.Name()))
		if err != nil {
			return freed, fmt.Errorf("prune images: %w", err)
		}
		freed += n
	}
	return freed, nil
}

// removeFile returns how many bytes of the disk a file took that is gone now.
func removeFile(path string) (int64, error) {
	n, err := disk.AllocatedBytes(path)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	return n, nil
}
