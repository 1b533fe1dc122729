package project

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// maxImage is the largest image that room is kept for in the group descriptors, in bytes: 64 blocks of them, all holes.
const maxImage = 1 << 40

// Options of Pack.
type Options struct {
	// Progress, when set, is called now and then with what has been packed so far.
	Progress func(Report)
	// Cache, when set, is a directory of this package's own, made when it is missing, that keeps the last image of each project: a
	// directory that has not changed is not packed again. It may be deleted at any time. An image that is in it has the mode 0444 and may be
	// the same file as that of another Pack.
	Cache string

	settled time.Duration // as the constant, which 0 stands for; tests have less patience
}

// Pack copies the directory dir into an ext4 image at dst, mode 0600. dst appears when it is complete and on the host's
// disk, in place of what was there; when Pack fails, nothing is left behind. What is left out of the image is in the
// Report and is no error. Errors that a user can do something about are *sandbox.Error.
func Pack(ctx context.Context, dir, dst string, o Options) (Report, error) {
	top, err := os.OpenRoot(dir)
	if err != nil {
		return Report{}, openError(dir, err)
	}
	defer top.Close()
	kept, err := newCache(o, dir)
	if err != nil {
		return Report{}, err
	}
	if r, ok, err := kept.find(ctx, top, dst); err != nil || ok {
		return r, disk.NoSpace(filepath.Dir(dst), err)
	}
	began := time.Now()
	out, err := os.CreateTemp(filepath.Dir(dst), ".pack-*")
	if err != nil {
		return Report{}, disk.NoSpace(filepath.Dir(dst), fmt.Errorf("pack %s: %w", dir, err))
	}
	defer func() { // neither finds anything to do after success
		_ = out.Close()
		_ = os.Remove(out.Name())
	}()
	report, w, err := pack(ctx, top, out, o)
	if err == nil {
		err = errors.Join(out.Sync(), out.Close())
	}
	if err != nil {
		return Report{}, disk.NoSpace(filepath.Dir(dst), fmt.Errorf("pack %s: %w", dir, err))
	}
	if err := os.Rename(out.Name(), dst); err != nil {
		return Report{}, fmt.Errorf("pack %s: %w", dir, err)
	}
	if err := kept.keep(ctx, dst, w, began); err != nil {
		report.Notes = append(report.Notes, fmt.Sprintf("the next sandbox will have it packed again: %v", err))
	}
	return report, nil
}

func openError(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return sandbox.Errorf(sandbox.NotFound, "give the path of a directory", "there is no directory %s", dir)
	case errors.Is(err, fs.ErrPermission):
		return sandbox.Errorf(sandbox.Invalid, "make it readable for this user", "the directory %s cannot be opened: %w", dir, cause(err))
	}
	return sandbox.Errorf(sandbox.Invalid, "give the path of a directory", "%s cannot be packed: %w", dir, cause(err))
}

// pack writes the image of a tree to an empty file.
func pack(ctx context.Context, top *os.Root, out *os.File, o Options) (Report, *walker, error) {
	w, image, err := convert(ctx, top, out, o)
	if err != nil {
		return Report{}, nil, err
	}
	report := w.report
	if report.ImageBytes, err = image.finish(); err != nil {
		return *report, w, err
	}
	if info, err := top.Lstat(lostFound); err == nil && info.IsDir() {
		return *report, w, nil // the project's own
	}
	return *report, w, hideLostFound(out)
}

// convert walks the tree in one goroutine, which writes a tar stream, and turns that into a file system in this one.
func convert(ctx context.Context, top *os.Root, out *os.File, o Options) (w *walker, image *sparseFile, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader, writer := io.Pipe()
	buffered := bufio.NewWriterSize(writer, 256<<10)
	w = newWalker(ctx, top, buffered, &Report{}, o.Progress)
	walked := make(chan error, 1)
	go func() {
		err := w.walk()
		if err == nil {
			err = errors.Join(w.out.Close(), buffered.Flush())
		}
		writer.CloseWithError(err) // nil becomes io.EOF
		walked <- err
	}()
	image = &sparseFile{f: out}
	err = tar2ext4.ConvertTarToExt4(reader, image, tar2ext4.MaximumDiskSize(maxImage))
	reader.CloseWithError(err) // the walk must not wait for us
	walkErr := <-walked
	if err != nil {
		return nil, nil, err // walkErr, or why the walk could not go on
	}
	if walkErr != nil {
		return nil, nil, walkErr
	}
	return w, image, nil
}
