package snapshot

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/store"
)

// Store is a directory of snapshots, each with a directory of its own. It knows all of them from Load on.
type Store struct {
	Checker
	shelf *store.Shelf[Manifest]

	mu   sync.Mutex
	all  map[string]Manifest // by id
	tags map[string]string   // id by Ref, of those with a tag and of those that are being made
	busy map[string]int      // restores that are under way, by id
}

// Open makes root (mode 0700) when it is missing.
func Open(root string) (*Store, error) {
	shelf, err := store.OpenShelf(root, store.Kind[Manifest]{
		What: "snapshot", File: manifestFile, Version: Version,
		ID:    func(m Manifest) string { return m.ID },
		Stamp: func(m *Manifest) { m.Version = Version },
	})
	return &Store{shelf: shelf, all: map[string]Manifest{}, tags: map[string]string{}, busy: map[string]int{}}, err
}

// Load reads all manifests, and deletes what a crash left of snapshots that were not yet, or no longer, there. What cannot be read is
// left alone and returned.
func (s *Store) Load() ([]store.Problem, error) {
	list, problems, err := s.shelf.Load()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range list {
		s.all[m.ID] = m
		if m.Tag != "" {
			s.tags[m.Ref()] = m.ID
		}
	}
	return problems, nil
}

// Dir is the directory of a snapshot.
func (s *Store) Dir(id string) string { return s.shelf.Dir(id) }

// Begin makes a directory for a new snapshot, or says that there is one with its sandbox and tag. Commit or Abandon is to follow.
func (s *Store) Begin(m Manifest) (dir string, err error) {
	if m.Tag != "" {
		if err := ValidateTag(m.Tag); err != nil {
			return "", err
		}
		s.mu.Lock()
		_, taken := s.tags[m.Ref()]
		if !taken {
			s.tags[m.Ref()] = m.ID
		}
		s.mu.Unlock()
		if taken {
			return "", sandbox.Errorf(sandbox.Exists, "choose another tag, or remove it with agentkernel snapshot rm "+m.Ref(), "there is a snapshot %s already", m.Ref())
		}
	}
	dir, err = s.shelf.Stage(m.ID)
	if err != nil {
		s.untag(m)
		return "", err
	}
	return dir, nil
}

// Commit keeps a snapshot that has been sealed in the directory of Begin.
func (s *Store) Commit(dir string, m Manifest) error {
	if err := s.shelf.Commit(m); err != nil {
		return err
	}
	s.Moved(dir, s.Dir(m.ID), m)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[m.ID] = m
	return nil
}

// Abandon deletes what Begin has begun.
func (s *Store) Abandon(m Manifest) error {
	s.untag(m)
	return s.shelf.Discard(m.ID)
}

func (s *Store) untag(m Manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.Tag != "" && s.tags[m.Ref()] == m.ID {
		delete(s.tags, m.Ref())
	}
}

// List returns all snapshots: those of a sandbox together, the newest first.
func (s *Store) List() []Manifest {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Manifest, 0, len(s.all))
	for _, m := range s.all {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b Manifest) int {
		return cmp.Or(cmp.Compare(a.Sandbox, b.Sandbox), b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// Find finds a snapshot by sandbox:tag, by its id, or by the beginning of that where only one begins so.
func (s *Store) Find(ref string) (Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.find(ref)
}

func (s *Store) find(ref string) (Manifest, error) {
	const hint = "agentkernel snapshot ls shows all"
	if m, ok := s.all[ref]; ok {
		return m, nil
	}
	if m, ok := s.all[s.tags[ref]]; ok {
		return m, nil
	}
	var found []Manifest
	for id, m := range s.all {
		if ref != "" && strings.HasPrefix(id, ref) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return Manifest{}, sandbox.Errorf(sandbox.NotFound, hint, "there is no snapshot %.140q", ref)
	case 1:
		return found[0], nil
	}
	return Manifest{}, sandbox.Errorf(sandbox.Invalid, hint, "%d snapshots have an id that begins with %.16q", len(found), ref)
}

// Use finds a snapshot and keeps it from being removed until done is called, as a restore needs it.
func (s *Store) Use(ref string) (m Manifest, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, err = s.find(ref); err != nil {
		return m, nil, err
	}
	s.busy[m.ID]++
	return m, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.busy[m.ID]--; s.busy[m.ID] == 0 {
			delete(s.busy, m.ID)
		}
	}), nil
}

// Remove deletes a snapshot. Sandboxes that were restored from it have its memory mapped, and go on: the file is gone when the last of
// them is. It is refused while a restore needs the files' names.
func (s *Store) Remove(id string) error {
	s.mu.Lock()
	m, ok := s.all[id]
	if ok && s.busy[id] > 0 {
		s.mu.Unlock()
		return sandbox.Errorf(sandbox.Conflict, "try again in a moment", "snapshot %s is being restored", m.Ref())
	}
	delete(s.all, id)
	s.mu.Unlock()
	if !ok {
		return nil
	}
	err := s.shelf.Remove(id)
	s.Forget(s.Dir(id), m)
	if err != nil {
		return err
	}
	s.untag(m)
	return nil
}

// AllocatedBytes is how much of the host's disk a snapshot takes.
func (s *Store) AllocatedBytes(m Manifest) (n int64, err error) {
	for _, f := range m.Files {
		size, err := disk.AllocatedBytes(filepath.Join(s.Dir(m.ID), f.Path))
		if err != nil {
			return n, err
		}
		n += size
	}
	return n, nil
}
