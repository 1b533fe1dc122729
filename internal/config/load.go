package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Load reads the file at path, whose directory is the project. A symbolic link is followed only while it stays in that
// directory, for the file itself and for what rootfs and dockerfile name; what is not a regular file is never opened for longer than it
// takes to see that. The error is a *sandbox.Error: NotFound when there is no file, else Invalid.
func Load(path string) (File, error) {
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return File{}, fmt.Errorf("find the directory of %s: %w", path, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return File{}, openError(path, err)
	}
	defer root.Close()
	data, err := read(root, filepath.Base(path))
	if err != nil {
		return File{}, openError(path, err)
	}
	f, places, problems := parse(data, path, projectSchema(), File{})
	wrong := func(key, reason string) {
		at := places.value([]string{"sandbox", key})
		problems = Problems{{File: path, Line: at.Line, Column: at.Column, Message: reason}}
	}
	if len(problems) == 0 && isPath(f.Rootfs) && !isReference(root, f.Rootfs) {
		var reason string
		if f.Rootfs, reason = findFile(root, dir, "rootfs", f.Rootfs, "an erofs, squashfs or ext4 image"); reason != "" {
			wrong("rootfs", reason)
		}
	}
	if len(problems) == 0 && f.Dockerfile != "" {
		var reason string
		if f.Rootfs != "" {
			reason = "rootfs and dockerfile both say what the image is; leave one of them out"
		} else {
			f.Dockerfile, reason = findFile(root, dir, "dockerfile", f.Dockerfile, "a Dockerfile")
		}
		if reason != "" {
			wrong("dockerfile", reason)
		}
	}
	if err := problems.err(); err != nil {
		return File{}, err
	}
	if f.Dir, err = filepath.EvalSymlinks(dir); err != nil {
		return File{}, openError(path, err)
	}
	return f, nil
}

// read returns the contents of a file of the project, one byte above the limit at most.
func read(root *os.Root, name string) ([]byte, error) {
	// Without O_NONBLOCK, a FIFO would hold us here until somebody writes to it.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

var errNotRegular = errors.New("it is not a regular file")

func openError(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return sandbox.Errorf(sandbox.NotFound, "agentkernel init writes one", "there is no file %s", path)
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // it names the base name alone
	}
	return sandbox.Errorf(sandbox.Invalid, "", "read %s: %w", path, err)
}

// isReference reports whether rootfs is a reference to a container image: it begins with the name of a registry, and nothing
// in the project has that path. Without a registry it is a path, so that a file that is missing is missed, and not looked for
// in the network.
func isReference(root *os.Root, name string) bool {
	registry, _, _ := strings.Cut(name, "/")
	if strings.HasPrefix(name, ".") || registry != "localhost" && !strings.ContainsAny(registry, ".:") {
		return false
	}
	_, err := root.Lstat(name)
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// findFile returns the absolute path of a file of the project that a key names, without symbolic links, or what is wrong with it.
// what says what it has to be.
func findFile(root *os.Root, dir, key, name, what string) (path, reason string) {
	info, err := root.Stat(name) // an error when a link leads out
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Sprintf("%s %q: there is no such file in %s", key, name, dir)
	case err != nil:
		return "", fmt.Sprintf("%s %q cannot be used: %v", key, name, pathCause(err))
	case !info.Mode().IsRegular():
		return "", fmt.Sprintf("%s %q is not a regular file; give the path of %s", key, name, what)
	}
	path, err = filepath.EvalSymlinks(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Sprintf("%s %q cannot be used: %v", key, name, pathCause(err))
	}
	// The answer above was the kernel's; this is about the name that is handed on.
	base, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Sprintf("%s %q cannot be used: %v", key, name, pathCause(err))
	}
	if rel, err := filepath.Rel(base, path); err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Sprintf("%s %q is outside of %s", key, name, dir)
	}
	return path, ""
}

func pathCause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
