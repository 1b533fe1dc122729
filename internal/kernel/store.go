package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/agentkernel/agentkernel/internal/filelock"
)

// ErrNoKernel is returned when a store has no kernel such as was asked for.
var ErrNoKernel = errors.New("no such kernel")

const (
	sourcesDir  = "sources" // verified tarballs, and partial downloads
	locksDir    = "locks"
	buildPrefix = ".build-" // + key: the working directory of one build
)

// Store is a directory of built kernels, one directory a key. Everything in it
// can be made again: deleting any of it is safe while no build runs.
type Store struct {
	root string
}

// OpenStore opens the store in directory root, which is made if it is absent.
func OpenStore(root string) (*Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open kernel store: %w", err)
	}
	for _, dir := range []string{abs, filepath.Join(abs, sourcesDir), filepath.Join(abs, locksDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open kernel store: %w", err)
		}
	}
	return &Store{root: abs}, nil
}

// Root is the store's directory.
func (s *Store) Root() string { return s.root }

// Open gives the kernel with a key. The error is [ErrNoKernel] if there is
// none, another if its directory is damaged.
func (s *Store) Open(key string) (Kernel, error) {
	if !keyForm().MatchString(key) {
		return Kernel{}, fmt.Errorf("%q is not a kernel's key: %w", key, ErrNoKernel)
	}
	dir := filepath.Join(s.root, key)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, fmt.Errorf("kernel %s is not in %s: %w", key, s.root, ErrNoKernel)
	}
	return readManifest(dir)
}

// List gives every kernel, the most recently built first. A directory that is
// damaged or was written by another version is left alone and named in the
// error; the kernels are valid all the same.
func (s *Store) List() ([]Kernel, error) {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return nil, fmt.Errorf("list kernels: %w", err)
	}
	var kernels []Kernel
	var broken []error
	for _, e := range entries {
		if !e.IsDir() || !keyForm().MatchString(e.Name()) {
			continue
		}
		k, err := readManifest(filepath.Join(s.root, e.Name()))
		if err != nil {
			broken = append(broken, err)
			continue
		}
		kernels = append(kernels, k)
	}
	sort.SliceStable(kernels, func(i, j int) bool { return kernels[i].BuiltAt.After(kernels[j].BuiltAt) })
	return kernels, errors.Join(broken...)
}

// Latest gives the kernel of an architecture that was built last. The error is
// [ErrNoKernel] if there is none; damaged ones are passed over.
func (s *Store) Latest(arch Arch) (Kernel, error) {
	kernels, broken := s.List()
	for _, k := range kernels {
		if k.Arch == arch {
			return k, nil
		}
	}
	return Kernel{}, errors.Join(fmt.Errorf("no %s kernel in %s: %w", arch, s.root, ErrNoKernel), broken)
}

// lock takes the named lock, across processes: [filelock.Lock].
func (s *Store) lock(ctx context.Context, name string, waiting func()) (unlock func(), err error) {
	return filelock.Lock(ctx, filepath.Join(s.root, locksDir, name+".lock"), waiting)
}

// sweep removes what builds that were killed have left. A working directory
// whose lock can be taken has no owner.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("look for abandoned builds: %w", err)
	}
	for _, e := range entries {
		key, ok := strings.CutPrefix(e.Name(), buildPrefix)
		if !ok || !keyForm().MatchString(key) {
			continue
		}
		unlock, free, err := filelock.Try(filepath.Join(s.root, locksDir, key+".lock"))
		if err != nil || !free {
			continue // somebody is building it
		}
		err = os.RemoveAll(filepath.Join(s.root, e.Name()))
		unlock()
		if err != nil {
			return fmt.Errorf("remove an abandoned build: %w", err)
		}
	}
	return nil
}

// commit moves a finished directory to its key. After it returns the kernel
// survives a crash of the host.
func (s *Store) commit(staged, key string) error {
	entries, err := os.ReadDir(staged)
	if err != nil {
		return fmt.Errorf("store kernel: %w", err)
	}
	for _, e := range entries {
		if err := syncPath(filepath.Join(staged, e.Name())); err != nil {
			return fmt.Errorf("store kernel: %w", err)
		}
	}
	if err := syncPath(staged); err != nil {
		return fmt.Errorf("store kernel: %w", err)
	}
	target := filepath.Join(s.root, key)
	// Only a damaged kernel can be in the way: a whole one would have been used.
	if err := os.RemoveAll(target); err != nil {
		return fmt.Errorf("store kernel: %w", err)
	}
	if err := os.Rename(staged, target); err != nil {
		return fmt.Errorf("store kernel: %w", err)
	}
	if err := syncPath(s.root); err != nil {
		return fmt.Errorf("store kernel: %w", err)
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}
