package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"

	"github.com/agentkernel/agentkernel/internal/image/tree"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

const (
	maxExt4     = 512 << 30 // bytes of an image
	maxExt4File = 40 << 30  // bytes of a file: tar2ext4 writes wrong extents above 42.5 GiB
)

// writeExt4 writes a read-only ext4. It has a directory lost+found, as every ext4 has.
func writeExt4(ctx context.Context, out *os.File, root *tree.Node) error {
	for p, n := range tree.Walk(root) {
		switch {
		case n.Contents.Size > maxExt4File:
			return sandbox.Errorf(sandbox.Invalid, "use --format erofs", "%s has %d bytes, and files of ext4 images may have %d", p, n.Contents.Size, int64(maxExt4File))
		case n.Mtime.Sec < 0: // tar2ext4 gets the years before 1970 wrong
			n.Mtime = tree.Time{}
		}
	}
	return throughTar(ctx, root, func(r io.Reader) error {
		return tar2ext4.ConvertTarToExt4(r, out, tar2ext4.MaximumDiskSize(maxExt4))
	})
}

// writeSquashfs lets mksquashfs write a squashfs, compressed with zstd.
func writeSquashfs(ctx context.Context, out *os.File, root *tree.Node) error {
	tool, err := exec.LookPath("sqfstar")
	if err != nil {
		install := "apt-get install squashfs-tools"
		if runtime.GOOS == "darwin" {
			install = "brew install squashfs"
		}
		return sandbox.Errorf(sandbox.Unavailable, install+", or use --format erofs", "sqfstar (squashfs-tools 4.5 or newer), which makes squashfs images, is not installed")
	}
	latest := int64(0)
	for _, n := range tree.Walk(root) {
		latest = max(latest, min(n.Mtime.Sec, math.MaxUint32))
	}
	args := append([]string{"-quiet", "-no-progress", "-comp", "zstd", "-reproducible", "-force"}, squashfsRoot(root.Mode&0o7777, root.UID, root.GID)...)
	return throughTar(ctx, root, func(r io.Reader) error {
		var stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, tool, append(args, out.Name())...)
		cmd.Stdin, cmd.Stderr = r, &stderr
		// The root directory would have the time of now, whatever -root-time says: this makes it that of the latest file.
		cmd.Env = append(os.Environ(), "LC_ALL=C", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", latest))
		if err := cmd.Run(); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return failed(tool, err, stderr.String())
		}
		return nil
	})
}

// squashfsRoot are the arguments of squashfs-tools for the root directory, as they leave out the one of an archive: it would have the
// mode 0777.
func squashfsRoot(mode, uid, gid uint32) []string {
	return []string{"-root-mode", fmt.Sprintf("%o", mode), "-root-uid", fmt.Sprint(uid), "-root-gid", fmt.Sprint(gid)}
}

// throughTar gives a tree as an archive to read, and returns the error of whichever side failed first.
func throughTar(ctx context.Context, root *tree.Node, read func(io.Reader) error) error {
	r, w := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := tree.WriteTar(ctx, w, root)
		wrote <- err
		w.CloseWithError(err)
	}()
	err := read(r)
	_ = r.CloseWithError(errStoppedReading)
	if writeErr := <-wrote; writeErr != nil && !errors.Is(writeErr, errStoppedReading) {
		return writeErr
	}
	return err
}

var errStoppedReading = errors.New("nobody reads any more")
