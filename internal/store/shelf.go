package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
)

const (
	maxRecordSize = 1 << 20 // bytes; a real one has about 2 KiB
	stagePrefix   = ".new-"
	removePrefix  = ".rm-"
)

// Problem is a directory whose record could not be read.
type Problem struct {
	Path string
	Err  error
}

func (p Problem) String() string { return fmt.Sprintf("%s: %v", p.Path, p.Err) }

// validator is what a record must be.
type validator interface{ Validate() error }

// Shelf is a directory of things of one kind: a directory each, named by its id, with a record in it. Its methods may be called at
// the same time for different things.
type Shelf[T validator] struct {
	root string
	kind Kind[T]
}

// Kind says what is kept on a Shelf.
type Kind[T validator] struct {
	What    string // one thing is called, in errors
	File    string // name of the record
	Version int    // of the record: the newest that this build reads
	ID      func(T) string
	Stamp   func(*T) // gives a record the newest version
}

// OpenShelf makes root (mode 0700) when it is missing.
func OpenShelf[T validator](root string, kind Kind[T]) (*Shelf[T], error) {
	s := &Shelf[T]{root: root, kind: kind}
	return s, s.make()
}

// make makes the root (mode 0700) when it is missing.
func (s *Shelf[T]) make() error {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return fmt.Errorf("make the directory of each %s: %w", s.kind.What, err)
	}
	return nil
}

// Load reads all records, and deletes what a crash left of things that were not yet, or no longer, there.
func (s *Shelf[T]) Load() ([]T, []Problem, error) {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return nil, nil, fmt.Errorf("read the directory of each %s: %w", s.kind.What, err)
	}
	var records []T
	var problems []Problem
	for _, e := range entries {
		path := filepath.Join(s.root, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), stagePrefix), strings.HasPrefix(e.Name(), removePrefix):
			if err := os.RemoveAll(path); err != nil {
				problems = append(problems, Problem{path, err})
			}
		case e.IsDir():
			r, err := s.Read(e.Name())
			if err != nil {
				problems = append(problems, Problem{filepath.Join(path, s.kind.File), err})
				continue
			}
			records = append(records, r)
		}
	}
	return records, problems, nil
}

// Read reads the record of a thing. The error is an fs.ErrNotExist when there is none.
func (s *Shelf[T]) Read(id string) (r T, err error) {
	f, err := os.OpenFile(filepath.Join(s.root, id, s.kind.File), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return r, fmt.Errorf("there is no record; delete the directory if it is not needed: %w", fs.ErrNotExist)
		}
		return r, fmt.Errorf("open it: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecordSize+1))
	if err != nil {
		return r, fmt.Errorf("read it: %w", err)
	}
	if len(data) > maxRecordSize {
		return r, fmt.Errorf("it has more than %d bytes", maxRecordSize)
	}
	// The version first: the rest of a newer record may have another shape.
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return r, fmt.Errorf("it is not a record: %w", err)
	}
	if v.Version > s.kind.Version {
		return r, fmt.Errorf("it was written by a newer agentkernel (record version %d, this one reads up to %d)", v.Version, s.kind.Version)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("it is not a record: %w", err)
	}
	if err := r.Validate(); err != nil {
		return r, err
	}
	if s.kind.ID(r) != id {
		return r, fmt.Errorf("it is the record of %s", s.kind.ID(r))
	}
	return r, nil
}

// Root is the directory of all.
func (s *Shelf[T]) Root() string { return s.root }

// Dir is the directory of a thing that has been committed.
func (s *Shelf[T]) Dir(id string) string { return filepath.Join(s.root, id) }

// Stage makes an empty directory in which the files of a new thing are prepared.
func (s *Shelf[T]) Stage(id string) (string, error) {
	dir := filepath.Join(s.root, stagePrefix+id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the directory of the new %s: %w", s.kind.What, err)
	}
	return dir, nil
}

// Discard deletes what Stage made.
func (s *Shelf[T]) Discard(id string) error {
	return os.RemoveAll(filepath.Join(s.root, stagePrefix+id))
}

// Commit writes the record and gives the staged directory its final name.
func (s *Shelf[T]) Commit(r T) error {
	stage := filepath.Join(s.root, stagePrefix+s.kind.ID(r))
	if err := s.write(stage, r); err != nil {
		return err
	}
	if err := os.Rename(stage, s.Dir(s.kind.ID(r))); err != nil {
		return fmt.Errorf("put the new %s in its place: %w", s.kind.What, err)
	}
	return syncDir(s.root)
}

// Save writes the record of a committed thing.
func (s *Shelf[T]) Save(r T) error { return s.write(s.Dir(s.kind.ID(r)), r) }

// Remove deletes a thing with all its files. It is not an error when there is none.
func (s *Shelf[T]) Remove(id string) error {
	gone := filepath.Join(s.root, removePrefix+id)
	if err := os.Rename(s.Dir(id), gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the directory of the %s: %w", s.kind.What, err)
	}
	if err := syncDir(s.root); err != nil {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove the files of the %s: %w", s.kind.What, err)
	}
	return nil
}

func (s *Shelf[T]) write(dir string, r T) error {
	s.kind.Stamp(&r)
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the record of %s %s: %w", s.kind.What, s.kind.ID(r), err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, s.kind.File), append(data, '\n'), 0o600, renameio.WithTempDir(dir)); err != nil {
		return fmt.Errorf("write the record of %s %s: %w", s.kind.What, s.kind.ID(r), err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
