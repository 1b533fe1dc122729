package layer

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"github.com/agentkernel/agentkernel/internal/disk"
	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// spool is a file without a name that holds the contents of a layer's files, one after the other.
type spool struct {
	f   *os.File
	w   *bufio.Writer
	off int64
	dir string
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, ".spool-*")
	if err != nil {
		return nil, disk.NoSpace(dir, fmt.Errorf("make room for a layer: %w", err))
	}
	if err := os.Remove(f.Name()); err != nil { // it goes on until it is closed
		_ = f.Close()
		return nil, fmt.Errorf("make room for a layer: %w", err)
	}
	return &spool{f: f, w: bufio.NewWriterSize(f, 1<<20), dir: dir}, nil
}

// add keeps size bytes of r.
func (s *spool) add(r io.Reader, size int64) (tree.Contents, error) {
	c := tree.Contents{Source: s.f, Off: s.off, Size: size}
	n, err := io.Copy(s.w, r)
	s.off += n
	if err != nil {
		return c, disk.NoSpace(s.dir, err)
	}
	if n != size {
		return c, damaged(io.ErrUnexpectedEOF)
	}
	return c, nil
}

func (s *spool) flush() error { return disk.NoSpace(s.dir, s.w.Flush()) }
