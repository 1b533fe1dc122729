package erofs

import (
	"context"
	"runtime"
	"sync"

	"github.com/pierrec/lz4/v4"

	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// pieceBlocks is how many blocks are compressed together, and the most that a reader of one page must unpack.
const pieceBlocks = 16

const pieceSize = pieceBlocks * blockSize

// job is a part of a file on its way through the compressors.
type job struct {
	i        *inode
	off      int64
	n        int
	compress bool
	whole    bool // the file has no other part, so that the outcome decides about its layout
	done     chan struct{}

	raw, packed []byte // packed is empty when compression saved nothing
	err         error
}

// data writes the contents of all files and symbolic links that are not to stand behind their inodes, and sets how each is
// stored. It reports whether any is compressed.
//
// Parts are read and compressed by several goroutines, and written in order.
func (w *writer) data(inodes []*inode) (compressed bool, err error) {
	workers := runtime.GOMAXPROCS(0)
	ctx, cancel := context.WithCancel(w.ctx)
	work, queue := make(chan *job, workers), make(chan *job, 4*workers)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for range workers {
		running.Go(func() {
			c := newCompressor(w.level)
			for j := range work {
				j.run(c)
				close(j.done)
			}
		})
	}
	running.Go(func() {
		defer close(queue)
		defer close(work)
		w.plan(ctx, inodes, work, queue)
	})
	for j := range queue {
		select {
		case <-j.done:
		case <-w.ctx.Done():
			return false, context.Cause(w.ctx)
		}
		if j.err != nil {
			return false, j.err
		}
		if err := w.part(j); err != nil {
			return false, err
		}
		compressed = compressed || j.i.layout == compressedFull
	}
	if w.ctx.Err() != nil {
		return false, context.Cause(w.ctx)
	}
	return compressed, nil
}

// plan cuts files into jobs, in the order of the inodes, until ctx ends.
func (w *writer) plan(ctx context.Context, inodes []*inode, work, queue chan<- *job) {
	sampler := newCompressor(w.level)
	send := func(j *job) bool {
		j.done = make(chan struct{})
		for _, c := range []chan<- *job{work, queue} {
			select {
			case c <- j:
			case <-ctx.Done():
				return false
			}
		}
		return true
	}
	for _, i := range inodes {
		switch i.node.Type() {
		case tree.TypeSymlink:
			i.size = int64(len(i.node.Target))
		case tree.TypeRegular:
			i.size = i.node.Contents.Size
		default:
			continue
		}
		if i.size == 0 {
			continue
		}
		if i.size <= blockSize && i.canInline(int(i.size)) {
			i.layout, i.inline = flatInline, int(i.size)
			continue
		}
		if w.level > 0 && i.size > blockSize && i.size <= pieceSize {
			if !send(&job{i: i, n: int(i.size), compress: true, whole: true}) {
				return
			}
			continue
		}
		compress, err := w.level > 0 && i.size > pieceSize, error(nil)
		if compress {
			compress, err = sampler.worth(i)
		}
		if err != nil {
			j := &job{i: i, err: err, done: make(chan struct{})}
			close(j.done)
			select {
			case queue <- j:
			case <-ctx.Done():
			}
			return
		}
		if compress {
			i.layout = compressedFull
		} else {
			i.flat()
		}
		end := i.size - int64(i.inline)
		for off := int64(0); off < end; off += pieceSize {
			if !send(&job{i: i, off: off, n: int(min(pieceSize, end-off)), compress: compress}) {
				return
			}
		}
	}
}

// flat lays out a file uncompressed.
func (i *inode) flat() {
	i.layout, i.inline = flatPlain, 0
	if tail := int(i.size % blockSize); tail > 0 && i.canInline(tail) {
		i.layout, i.inline = flatInline, tail
	}
}

func (j *job) run(c *compressor) {
	if j.i.node.Type() == tree.TypeSymlink {
		j.raw = []byte(j.i.node.Target)
		return
	}
	j.raw = make([]byte, j.n)
	if j.err = readFull(j.i.node.Contents, j.raw, j.off); j.err == nil && j.compress {
		j.packed, j.err = c.pack(j.raw)
	}
}

// part writes a job's bytes.
func (w *writer) part(j *job) error {
	i := j.i
	if j.whole {
		i.layout = compressedFull
		if len(j.packed) == 0 {
			i.flat()
			j.raw = j.raw[:i.size-int64(i.inline)]
		}
	}
	start := w.pos / blockSize
	if i.layout != compressedFull {
		if j.off == 0 {
			i.start = start
		}
		if err := w.write(j.raw); err != nil {
			return err
		}
		return w.align()
	}
	p := piece{start: uint32(start), logical: uint16(blocksOf(int64(j.n)))}
	if len(j.packed) > 0 {
		p.compressed, p.physical = true, uint16(blocksOf(int64(len(j.packed))))
		// Compressed data ends where its last block ends.
		if err := w.zero(w.pos + int64(p.physical)*blockSize - int64(len(j.packed))); err != nil {
			return err
		}
		if err := w.write(j.packed); err != nil {
			return err
		}
	} else {
		p.physical = p.logical
		if err := w.write(j.raw); err != nil {
			return err
		}
		if err := w.align(); err != nil {
			return err
		}
	}
	i.pieces = append(i.pieces, p)
	i.start += int64(p.physical)
	return nil
}

// compressor compresses pieces. It belongs to one goroutine.
type compressor struct {
	fast *lz4.Compressor
	hc   *lz4.CompressorHC
	buf  []byte
}

func newCompressor(level int) *compressor {
	c := &compressor{buf: make([]byte, lz4.CompressBlockBound(pieceSize))}
	if level < 2 {
		c.fast = &lz4.Compressor{}
	} else {
		// The library's levels are how many earlier places are tried, from 512 on, where next to nothing is left to gain.
		c.hc = &lz4.CompressorHC{Level: lz4.CompressionLevel(1 << level)}
	}
	return c
}

// pack returns raw as one LZ4 block, or nil when that does not save a block.
func (c *compressor) pack(raw []byte) ([]byte, error) {
	var n int
	var err error
	if c.hc != nil {
		n, err = c.hc.CompressBlock(raw, c.buf)
	} else {
		n, err = c.fast.CompressBlock(raw, c.buf)
	}
	if err != nil {
		return nil, err
	}
	if n == 0 || blocksOf(int64(n)) >= blocksOf(int64(len(raw))) {
		return nil, nil
	}
	return append([]byte(nil), c.buf[:n]...), nil
}

// worth reports whether it makes sense to compress a file of several pieces: whether that saves anything at its beginning,
// middle or end. Media and archives are read faster as they are.
func (c *compressor) worth(i *inode) (bool, error) {
	last := (i.size - 1) / pieceSize * pieceSize
	buf := make([]byte, pieceSize)
	for _, off := range []int64{0, last / 2 / pieceSize * pieceSize, last} {
		raw := buf[:min(pieceSize, i.size-off)]
		if err := readFull(i.node.Contents, raw, off); err != nil {
			return false, err
		}
		packed, err := c.pack(raw)
		if err != nil || packed != nil {
			return packed != nil, err
		}
	}
	return false, nil
}
