package erofs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"

	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// Options of Write.
type Options struct {
	// Level of compression: 0 stores files as they are, 1 is fast LZ4, 2 to 9 are LZ4HC, which tries 1<<Level earlier places for
	// each match.
	Level int
	// BuildTime is what the superblock says about when the image was made, in seconds since 1970. The same tree gives the
	// same bytes only with the same time.
	BuildTime int64
}

// Output is an empty file.
type Output interface {
	io.Writer
	io.WriterAt
}

// writer writes one image.
type writer struct {
	ctx    context.Context
	out    *bufio.Writer
	pos    int64 // bytes written
	level  int
	byNode map[*tree.Node]*inode
	zeros  [blockSize]byte
}

// Write writes the tree below root as a file-system image. The contents of its files are read, some of them twice.
func Write(ctx context.Context, out Output, root *tree.Node, o Options) error {
	inodes, byNode, err := collect(root)
	if err != nil {
		return err
	}
	w := &writer{ctx: ctx, out: bufio.NewWriterSize(out, 1<<20), level: o.Level, byNode: byNode}
	if err := w.write(w.zeros[:]); err != nil { // the superblock's place
		return err
	}
	compressed, err := w.data(inodes)
	if err != nil {
		return err
	}
	if err := w.align(); err != nil {
		return err
	}
	s := super{inodes: uint64(len(inodes)), buildTime: o.BuildTime, meta: uint32(w.pos / blockSize), compressed: compressed, maxBlocks: pieceBlocks}
	place(inodes)
	s.root = uint16(inodes[0].number())
	if err := w.metadata(inodes); err != nil {
		return err
	}
	if w.pos/blockSize > math.MaxUint32 {
		return fmt.Errorf("the image has %d bytes, more than the format can address", w.pos)
	}
	s.blocks = uint32(w.pos / blockSize)
	if err := w.out.Flush(); err != nil {
		return err
	}
	_, err = out.WriteAt(s.block(), 0)
	return err
}

func (w *writer) write(p []byte) error {
	n, err := w.out.Write(p)
	w.pos += int64(n)
	return err
}

// zero fills up to position end.
func (w *writer) zero(end int64) error {
	for w.pos < end {
		if err := w.write(w.zeros[:min(int64(len(w.zeros)), end-w.pos)]); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) align() error { return w.zero(alignUp(w.pos, blockSize)) }

// place gives every inode its offset. What stands inline must not cross the end of a block, nor does the inode itself.
func place(inodes []*inode) {
	pos := int64(2 * slotSize) // so that no inode has the number 0
	for _, i := range inodes {
		if i.node.IsDir() {
			i.placeDir()
		}
		together := int64(inodeSize)
		if i.inline > 0 {
			together = int64(inodeSize + i.xattrs + i.inline)
		}
		if pos%blockSize+together > blockSize {
			pos = alignUp(pos, blockSize)
		}
		i.offset = pos
		pos = alignUp(pos+int64(i.metaSize()), slotSize)
	}
}

// placeDir decides how a directory is stored. Where its blocks are is set when they are written.
func (i *inode) placeDir() {
	_, i.size = dirBlocks(dirNames(i.node))
	if tail := int(i.size % blockSize); tail > 0 && i.canInline(tail) {
		i.layout, i.inline = flatInline, tail
	}
}

// metadata writes the inodes, and after them the blocks of directories.
func (w *writer) metadata(inodes []*inode) error {
	base := w.pos
	last := inodes[len(inodes)-1]
	next := blocksOf(base + last.offset + int64(last.metaSize())) // block after the inodes
	var buf []byte
	for k, i := range inodes {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		var tail []byte
		switch {
		case i.node.IsDir():
			i.start = next
			next += blocksOf(i.size - int64(i.inline))
			if i.inline > 0 {
				tail = w.encodeDir(i)[i.size-int64(i.inline):]
			}
		case i.inline > 0 && i.node.Type() == tree.TypeSymlink:
			tail = []byte(i.node.Target)
		case i.inline > 0:
			tail = make([]byte, i.inline)
			if err := readFull(i.node.Contents, tail, i.size-int64(i.inline)); err != nil {
				return err
			}
		}
		if err := w.zero(base + i.offset); err != nil {
			return err
		}
		var err error
		if buf, err = i.encode(buf[:0], uint32(k+1)); err != nil {
			return err
		}
		if i.layout == compressedFull {
			buf = i.encodeIndex(buf)
		}
		if err := w.write(append(buf, tail...)); err != nil {
			return err
		}
	}
	for _, i := range inodes {
		if !i.node.IsDir() || i.size <= int64(i.inline) {
			continue
		}
		if err := w.zero(i.start * blockSize); err != nil {
			return err
		}
		if err := w.write(w.encodeDir(i)[:i.size-int64(i.inline)]); err != nil {
			return err
		}
	}
	return w.align()
}

// readFull reads len(p) bytes of a file at off.
func readFull(c tree.Contents, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	n, err := c.Source.ReadAt(p, c.Off+off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read a file's contents: %w", err)
}
