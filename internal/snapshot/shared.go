package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/agentkernel/agentkernel/internal/filelock"
	"github.com/agentkernel/agentkernel/internal/store"
)

// Shared is a store of what can be made again, which several daemons of a user may have at once: it is read when something is
// looked for, and changed under a lock.
type Shared struct{ *Store }

// OpenShared makes root (mode 0700) when it is missing.
func OpenShared(root string) (*Shared, error) {
	s, err := Open(root)
	return &Shared{s}, err
}

// Lock keeps other daemons from adding anything.
func (s *Shared) Lock(ctx context.Context) (unlock func(), err error) {
	return filelock.Lock(ctx, filepath.Join(s.shelf.Root(), "lock"), nil)
}

// Load is Store.Load, unless another daemon is adding something: what a crash has left can wait.
func (s *Shared) Load() ([]store.Problem, error) {
	unlock, ok, err := filelock.Try(filepath.Join(s.shelf.Root(), "lock"))
	if err != nil || !ok {
		return nil, err
	}
	defer unlock()
	return s.Store.Load()
}

// Begin is Store.Begin. The caller holds the lock: what another has begun and not ended was left by a crash.
func (s *Shared) Begin(m Manifest) (dir string, err error) {
	if err := s.shelf.Discard(m.ID); err != nil {
		return "", fmt.Errorf("clear up after a crash: %w", err)
	}
	return s.Store.Begin(m)
}

// Use is Store.Use, for something that another daemon may have added, or removed. What cannot be read is removed.
func (s *Shared) Use(id string) (m Manifest, done func(), err error) {
	m, err = s.shelf.Read(id)
	s.mu.Lock()
	if err == nil {
		s.all[id] = m
	} else {
		delete(s.all, id)
	}
	s.mu.Unlock()
	if err == nil {
		now := time.Now()
		_ = os.Chtimes(s.manifest(id), now, now) // it may be pruned a little too early
	} else if !errors.Is(err, fs.ErrNotExist) {
		if err := s.shelf.Remove(id); err != nil {
			return m, nil, err
		}
	}
	return s.Store.Use(id)
}

// LastUse is when something was last used, or made.
func (s *Shared) LastUse(m Manifest) (time.Time, error) {
	info, err := os.Stat(s.manifest(m.ID))
	if err != nil {
		return time.Time{}, fmt.Errorf("look at a manifest: %w", err)
	}
	return info.ModTime(), nil
}

func (s *Shared) manifest(id string) string { return filepath.Join(s.Dir(id), manifestFile) }
