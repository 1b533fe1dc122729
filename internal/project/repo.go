package project

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// Bounds on git's files, which come with the project and are read into memory.
const (
	maxIgnoreFile = 1 << 20
	maxIndex      = 128 << 20
)

// repo is a git repository in the tree, or the whole tree when that is none.
type repo struct {
	root    string // its path in the tree with a "/" at its end, or ""
	tracked tracked
}

// rel is the path in the repository of a path in the tree.
func (r *repo) rel(p string) string { return strings.TrimPrefix(p, r.root) }

// openRepo looks at a directory of the tree that may be the root of a repository. dir is that directory, at is its path in
// the tree, whose root is top. ok is false when it is none. The rules are those of info/exclude.
func openRepo(top, dir *os.Root, at string, note func(string)) (r *repo, exclude *rules, ok bool) {
	info, err := dir.Lstat(".git")
	if err != nil {
		return nil, nil, false
	}
	r = &repo{}
	if at != "." {
		r.root = at + "/"
	}
	gitDir := path.Join(at, ".git") // in the tree
	switch {
	case info.Mode().IsRegular(): // a submodule or a linked work tree: gitrepository-layout(5)
		data, err := readFile(dir, ".git", 64<<10)
		target, found := strings.CutPrefix(string(data), "gitdir: ")
		if err != nil || !found {
			return nil, nil, false
		}
		target = strings.TrimRight(target, "\r\n")
		gitDir = path.Join(at, target)
		if path.IsAbs(target) || gitDir == ".." || strings.HasPrefix(gitDir, "../") {
			note(fmt.Sprintf("the git history of %q is outside of the project, in %q, and was not copied", at, target))
			return r, nil, true
		}
	case !info.IsDir():
		return nil, nil, false
	}
	if _, err := top.Lstat(path.Join(gitDir, "HEAD")); err != nil {
		return nil, nil, false
	}
	if data, err := readFile(top, path.Join(gitDir, "info/exclude"), maxIgnoreFile); err == nil {
		exclude = exclude.with("", string(data))
	} else if !errors.Is(err, fs.ErrNotExist) {
		note(fmt.Sprintf("the ignore rules in %q were not used: %v", path.Join(gitDir, "info/exclude"), cause(err)))
	}
	data, err := readFile(top, path.Join(gitDir, "index"), maxIndex)
	if err == nil {
		r.tracked, err = parseIndex(data)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		note(fmt.Sprintf("the index %q was not understood (%v), so tracked files that match an ignore rule were left out", path.Join(gitDir, "index"), cause(err)))
	}
	return r, exclude, true
}

// readFile reads a regular file of at most limit bytes.
func readFile(dir *os.Root, name string, limit int64) ([]byte, error) {
	f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return data, err
}

// cause is an error without the name of the file, which the message around it has.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
