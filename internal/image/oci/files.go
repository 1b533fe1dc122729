package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/image/layer"
)

// files are those of an archive or a directory that holds images.
type files interface {
	// open returns a file by its path, and its size. The error is fs.ErrNotExist when there is none.
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// maxArchived bounds how many files an archive of images may have: a few for each layer.
const maxArchived = 1 << 16

// tarFiles are those of a tar archive in a file.
type tarFiles struct {
	f     *os.File
	where map[string]extent
	links map[string]string // older docker has links to layers that came before
}

type extent struct{ off, size int64 }

// openTar reads what is in an archive, which may be compressed with gzip or zstd; it is unpacked to an unnamed file in dir
// then. It takes f over.
func openTar(ctx context.Context, f *os.File, dir string, maxBytes int64) (_ *tarFiles, err error) {
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	plain, err := layer.Unpack(ctx, f, dir, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	if plain != f {
		_ = f.Close()
		f = plain
	}
	t := &tarFiles{f: f, where: map[string]extent{}, links: map[string]string{}}
	for r := tar.NewReader(f); ; { // seeks over the files
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the archive: %w", err)
		}
		if len(t.where)+len(t.links) >= maxArchived {
			return nil, fmt.Errorf("the archive has more than %d files, so that it is none of images", maxArchived)
		}
		name := path.Clean("/" + h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			off, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			t.where[name] = extent{off, h.Size}
		case tar.TypeSymlink:
			t.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			t.links[name] = path.Clean("/" + h.Linkname)
		}
	}
}

func (t *tarFiles) open(name string) (io.ReadCloser, int64, error) {
	p := path.Clean("/" + name)
	for range 8 {
		if e, ok := t.where[p]; ok {
			return io.NopCloser(io.NewSectionReader(t.f, e.off, e.size)), e.size, nil
		}
		p = t.links[p]
	}
	return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (t *tarFiles) Close() error { return t.f.Close() }

// dirFiles are those of a directory. Links do not lead out of it.
type dirFiles struct{ root *os.Root }

func (d dirFiles) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.Open(path.Clean(name))
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (d dirFiles) Close() error { return d.root.Close() }

// spoolStream copies a stream of up to maxBytes to an unnamed file in dir.
func spoolStream(r io.Reader, dir string, maxBytes int64) (*os.File, error) {
	f, err := unnamed(dir)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(&limitedFile{f: f, left: maxBytes}, r)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, disk.NoSpace(dir, fmt.Errorf("keep the archive: %w", err))
	}
	return f, nil
}

func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".archive-*")
	if err != nil {
		return nil, disk.NoSpace(dir, fmt.Errorf("make room for an archive: %w", err))
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make room for an archive: %w", err)
	}
	return f, nil
}

// readFile reads a small file.
func readFile(f files, name string, limit int64) ([]byte, error) {
	r, _, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readBounded(r, limit, path.Base(name))
}
