package project

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/internal/disk"
)

const (
	// cacheMode is that of a kept image: nobody writes to it, and sandboxes share it.
	cacheMode = 0o444
	// cacheAge is how long an image is kept that no sandbox was made with.
	cacheAge = 7 * 24 * time.Hour
	// settled is how old the last change of a tree must be for its image to be kept. The clock of a file system may stand still for
	// so long (2 s on FAT), and what is changed twice meanwhile looks the same.
	settled = 3 * time.Second
)

// cache keeps the last image of each project. What a tree is made of is told by the names, types, permissions, sizes, times of change and
// inodes of all that would be packed: the time of change (ctime) cannot be set, so a tree that looks the same is the same, but
// for what is written through a memory map that has been written to before.
//
// An image is shared by hard links, where cache and sandboxes are in one file system. One that an earlier state of a project had
// is never asked for again, as times of change do not come back.
type cache struct {
	dir     string
	project string // prefix of the names of this project's images
	settled time.Duration
}

func newCache(o Options, project string) (*cache, error) {
	if o.Cache == "" {
		return nil, nil
	}
	abs, err := filepath.Abs(project)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", project, err)
	}
	sum := sha256.Sum256([]byte(abs))
	return &cache{dir: o.Cache, project: hex.EncodeToString(sum[:12]) + "-", settled: cmp.Or(o.settled, settled)}, nil
}

func (c *cache) path(look [sha256.Size]byte) string {
	return filepath.Join(c.dir, c.project+hex.EncodeToString(look[:])+".ext4")
}

// find makes dst the image of a tree that has not changed since one was kept, which ok tells.
func (c *cache) find(ctx context.Context, top *os.Root, dst string) (r Report, ok bool, err error) {
	if c == nil {
		return r, false, nil
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return r, false, fmt.Errorf("look for a project's image: %w", err)
	}
	if !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), c.project) }) {
		return r, false, nil // there is nothing to look for
	}
	w := newWalker(ctx, top, nil, &r, nil)
	if err := w.walk(); err != nil {
		return r, false, err
	}
	path := c.path(w.looked())
	info, err := os.Lstat(path)
	if err == nil {
		err = place(ctx, path, dst)
	}
	if errors.Is(err, os.ErrNotExist) { // it has changed, or somebody has cleared the cache
		return Report{}, false, nil
	}
	if err != nil {
		return Report{}, false, fmt.Errorf("take a project's image from the cache: %w", err)
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // only for its age
	r.ImageBytes, r.Cached = info.Size(), true
	return r, true, nil
}

// keep keeps the image at dst, which a walk that began at a time has made.
func (c *cache) keep(ctx context.Context, dst string, w *walker, began time.Time) error {
	r := w.report
	if c == nil || r.Unreadable.Count > 0 || r.Changed.Count > 0 || w.newest.After(began.Add(-c.settled)) {
		return nil
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("make the cache of projects: %w", err)
	}
	if err := os.Chmod(dst, cacheMode); err != nil {
		return fmt.Errorf("keep a project's image: %w", err)
	}
	path := c.path(w.looked())
	if err := place(ctx, dst, path); err != nil {
		return fmt.Errorf("keep a project's image: %w", err)
	}
	return c.prune(path)
}

// prune deletes the images of earlier states of the project, what is old, and what a crash has left.
func (c *cache) prune(but string) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("clear the cache of projects: %w", err)
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(c.dir, e.Name())
		info, err := e.Info()
		if err != nil || path == but {
			continue // gone already
		}
		if strings.HasPrefix(e.Name(), c.project) || time.Since(info.ModTime()) > cacheAge {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// place makes to another name of the image from, or where that cannot be a copy, in place of what is there. Several may do so at
// once.
func place(ctx context.Context, from, to string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(to), ".place-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	staged := filepath.Join(tmp, "image")
	err = os.Link(from, staged)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		// Another file system, one without links, or too many of them.
		err = disk.Copy(ctx, staged, from, cacheMode)
	}
	if err != nil {
		return err
	}
	return os.Rename(staged, to)
}

// looked is a digest of what the walk has seen.
func (w *walker) looked() (sum [sha256.Size]byte) {
	w.look.Sum(sum[:0])
	return sum
}

// lookVersion is part of every digest; it changes when the image of the same tree does.
const lookVersion = "1\n"

// see notes an entry that is packed.
func (w *walker) see(path string, info os.FileInfo, kind byte, target string) {
	id, links := identity(info)
	changed := changeTime(info)
	if changed.After(w.newest) {
		w.newest = changed
	}
	w.line = fmt.Appendf(w.line[:0], "%q %q %c %o %d %d %d %d %d %d\n", path, target, kind, info.Mode(), info.Size(), info.ModTime().UnixNano(), changed.UnixNano(), id.dev, id.ino, links)
	_, _ = w.look.Write(w.line) // never fails: hash.Hash
}
