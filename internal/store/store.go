// Package store keeps the records and files of sandboxes: one directory a sandbox, below one root, with the record in
// sandbox.json.
//
// A sandbox appears and disappears by the rename of its directory, so that a crash leaves either all of it or, under a
// name that begins with a dot, a leftover that Load deletes. A record is written to a temporary file, fsynced and renamed.
// A record that cannot be read is never deleted and never an error of Load: it is reported and left alone.
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

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

const (
	recordFile    = "sandbox.json"
	maxRecordSize = 1 << 20 // bytes; a real one has about 2 KiB
	stagePrefix   = ".new-"
	removePrefix  = ".rm-"
)

// Store is a directory of sandboxes. Its methods may be called at the same time for different sandboxes.
type Store struct{ root string }

// Open makes root (mode 0700) when it is missing.
func Open(root string) (*Store, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of sandboxes: %w", err)
	}
	return &Store{root: root}, nil
}

// Problem is a directory whose record could not be read.
type Problem struct {
	Path string
	Err  error
}

func (p Problem) String() string { return fmt.Sprintf("%s: %v", p.Path, p.Err) }

// Load reads all records, and deletes what a crash left of sandboxes that were not yet, or no longer, there.
func (s *Store) Load() ([]sandbox.Record, []Problem, error) {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return nil, nil, fmt.Errorf("read the directory of sandboxes: %w", err)
	}
	var records []sandbox.Record
	var problems []Problem
	for _, e := range entries {
		path := filepath.Join(s.root, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), stagePrefix), strings.HasPrefix(e.Name(), removePrefix):
			if err := os.RemoveAll(path); err != nil {
				problems = append(problems, Problem{path, err})
			}
		case e.IsDir():
			r, err := s.read(e.Name())
			if err != nil {
				problems = append(problems, Problem{filepath.Join(path, recordFile), err})
				continue
			}
			records = append(records, r)
		}
	}
	return records, problems, nil
}

func (s *Store) read(id string) (sandbox.Record, error) {
	var r sandbox.Record
	f, err := os.OpenFile(filepath.Join(s.root, id, recordFile), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return r, errors.New("there is no record; delete the directory if it is not needed")
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
	if v.Version > sandbox.RecordVersion {
		return r, fmt.Errorf("it was written by a newer agentkernel (record version %d, this one reads up to %d)", v.Version, sandbox.RecordVersion)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("it is not a record: %w", err)
	}
	if err := r.Validate(); err != nil {
		return r, err
	}
	if r.ID != id {
		return r, fmt.Errorf("it is the record of %s", r.ID)
	}
	return r, nil
}

// Dir is the directory of a sandbox that has been committed.
func (s *Store) Dir(id string) string { return filepath.Join(s.root, id) }

// Stage makes an empty directory in which a sandbox's files are prepared.
func (s *Store) Stage(id string) (string, error) {
	dir := filepath.Join(s.root, stagePrefix+id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the directory of the new sandbox: %w", err)
	}
	return dir, nil
}

// Discard deletes what Stage made.
func (s *Store) Discard(id string) error { return os.RemoveAll(filepath.Join(s.root, stagePrefix+id)) }

// Commit writes the record and gives the staged directory its final name.
func (s *Store) Commit(r sandbox.Record) error {
	stage := filepath.Join(s.root, stagePrefix+r.ID)
	if err := writeRecord(stage, r); err != nil {
		return err
	}
	if err := os.Rename(stage, s.Dir(r.ID)); err != nil {
		return fmt.Errorf("put the new sandbox in its place: %w", err)
	}
	return syncDir(s.root)
}

// Save writes the record of a committed sandbox.
func (s *Store) Save(r sandbox.Record) error { return writeRecord(s.Dir(r.ID), r) }

// Remove deletes a sandbox with all its files. It is not an error when there is none.
func (s *Store) Remove(id string) error {
	gone := filepath.Join(s.root, removePrefix+id)
	if err := os.Rename(s.Dir(id), gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the sandbox's directory: %w", err)
	}
	if err := syncDir(s.root); err != nil {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove the sandbox's files: %w", err)
	}
	return nil
}

func writeRecord(dir string, r sandbox.Record) error {
	r.Version = sandbox.RecordVersion
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the record of %s: %w", r.Spec.Name, err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, recordFile), append(data, '\n'), 0o600, renameio.WithTempDir(dir)); err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Spec.Name, err)
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
