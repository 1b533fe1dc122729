package dockerfile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Context is what a Dockerfile is built from: a directory, and the path of the Dockerfile in it.
type Context struct {
	Dir        string // absolute
	Dockerfile string // in Dir, with slashes
}

// Digest is a hash of all that a builder can see of the context: types, names, permissions and contents of what its
// .dockerignore leaves (or Dockerfile.dockerignore, beside the Dockerfile), and of these two themselves. Owners and times do not
// count, and neither do devices, sockets and pipes, which no builder copies.
func (c Context) Digest(ctx context.Context) (string, error) { return c.walk(ctx, nil) }

// CopyTo copies the same to an empty directory, and returns the copy and its digest. So what is built is what the digest is of,
// whatever happens to the original meanwhile. Symbolic links are copied as they are.
func (c Context) CopyTo(ctx context.Context, dir string) (Context, string, error) {
	to, err := os.OpenRoot(dir)
	if err != nil {
		return Context{}, "", fmt.Errorf("copy the context of the build: %w", err)
	}
	defer to.Close()
	digest, err := c.walk(ctx, to)
	return Context{Dir: dir, Dockerfile: c.Dockerfile}, digest, err
}

func (c Context) walk(ctx context.Context, to *os.Root) (string, error) {
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return "", fmt.Errorf("read the context of the build: %w", err)
	}
	defer root.Close()
	w := walker{root: root, to: to, sum: sha256.New(), always: map[string]bool{c.Dockerfile: true, c.Dockerfile + ".dockerignore": true, ".dockerignore": true}}
	if w.ignored, err = c.ignored(root); err != nil {
		return "", err
	}
	if err := w.dir(ctx, "."); err != nil {
		return "", fmt.Errorf("read the context of the build in %s: %w", c.Dir, err)
	}
	return "sha256:" + hex.EncodeToString(w.sum.Sum(nil)), nil
}

// ignored reads the patterns of what is left out.
func (c Context) ignored(root *os.Root) (*patternmatcher.PatternMatcher, error) {
	for _, name := range []string{c.Dockerfile + ".dockerignore", ".dockerignore"} {
		f, err := openFile(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		patterns, err := ignorefile.ReadAll(io.LimitReader(f, 1<<20))
		err = errors.Join(err, f.Close())
		if err == nil {
			var m *patternmatcher.PatternMatcher
			if m, err = patternmatcher.New(patterns); err == nil {
				return m, nil
			}
		}
		return nil, fmt.Errorf("read %s: %w", filepath.Join(c.Dir, name), err)
	}
	return patternmatcher.New(nil)
}

type walker struct {
	root, to *os.Root // to may be nil
	sum      hash.Hash
	ignored  *patternmatcher.PatternMatcher
	always   map[string]bool
}

// dir goes through a directory, in the order of names.
func (w *walker) dir(ctx context.Context, dir string) error {
	entries, err := fs.ReadDir(w.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := path.Join(dir, e.Name())
		ignore, err := w.ignored.MatchesOrParentMatches(p)
		if err != nil {
			return err
		}
		if w.always[p] {
			ignore = false
		}
		// What is in a directory that is left out may be let in again, or be the Dockerfile; directories come with what is in them.
		if ignore && (!e.IsDir() || !w.mayHave(p)) {
			continue
		}
		if err := w.entry(ctx, p, e.Type(), ignore); err != nil {
			return err
		}
	}
	return nil
}

// mayHave reports whether there may be something in a directory that is left out which is not left out itself.
func (w *walker) mayHave(dir string) bool {
	if w.ignored.Exclusions() {
		return true
	}
	for p := range w.always {
		if strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}

func (w *walker) entry(ctx context.Context, p string, kind fs.FileMode, ignore bool) error {
	info, err := w.root.Lstat(p)
	if err != nil {
		return err
	}
	head := func(what string, size int64) { fmt.Fprintf(w.sum, "%s %q %o %d\n", what, p, info.Mode().Perm(), size) }
	switch {
	case kind.IsDir():
		if !ignore {
			head("dir", 0)
		}
		if w.to != nil {
			// A directory that is left out is there for what may be in it; its builder leaves it out again.
			if err := w.to.Mkdir(p, 0o700); err != nil {
				return err
			}
		}
		if err := w.dir(ctx, p); err != nil || w.to == nil {
			return err
		}
		if ignore {
			if err := w.to.Remove(p); err == nil || !errors.Is(err, syscall.ENOTEMPTY) {
				return err
			}
		}
		return w.to.Chmod(p, info.Mode().Perm())
	case kind&fs.ModeSymlink != 0:
		target, err := w.root.Readlink(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(w.sum, "link %q %q\n", p, target)
		if w.to != nil {
			return w.to.Symlink(target, p)
		}
		return nil
	case kind.IsRegular():
		return w.file(p, head)
	}
	return nil
}

func (w *walker) file(p string, head func(what string, size int64)) error {
	in, err := openFile(w.root, p)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	head("file", info.Size())
	var to io.Writer = w.sum
	if w.to != nil {
		out, err := w.to.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer out.Close()
		to = io.MultiWriter(w.sum, out)
		defer func() { _ = out.Chmod(info.Mode().Perm()) }()
	}
	n, err := io.Copy(to, io.LimitReader(in, info.Size()))
	if err == nil && n < info.Size() {
		err = fmt.Errorf("%s became shorter while it was read", p)
	}
	return err
}

// openFile opens a regular file of the context. A FIFO does not hold us up.
func openFile(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, f.Close(), fmt.Errorf("%s is not a regular file", name))
	}
	return f, nil
}
