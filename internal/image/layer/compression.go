package layer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/agentkernel/agentkernel/internal/disk"
)

// maxWindow bounds what a zstd stream can make its decoder hold, in bytes: what the zstd program itself takes by default.
const maxWindow = 128 << 20

// decompress returns the archive in a layer. How it is compressed is told by its first bytes, as other programs do:
// media types are not always right.
func decompress(r io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReaderSize(r, 1<<16)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}): // RFC 1952
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, fmt.Errorf("decompress: %w", err)
		}
		return z, func() { _ = z.Close() }, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		// RFC 8878; a skippable frame may come first (zstd:chunked).
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, fmt.Errorf("decompress: %w", err)
		}
		return z, z.Close, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return nil, nil, errors.New("it is compressed with bzip2, and layers are read as tar, gzip or zstd")
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return nil, nil, errors.New("it is compressed with xz, and layers are read as tar, gzip or zstd")
	}
	return b, func() {}, nil
}

// ErrDamaged is returned for what cannot be decompressed or is no archive.
var ErrDamaged = errors.New("the layer is damaged")

// Unpack returns the archive in f, decompressed: f itself at its beginning when it is not compressed, else an unnamed file
// in dir with up to maxBytes.
func Unpack(ctx context.Context, f *os.File, dir string, maxBytes int64) (*os.File, error) {
	r, done, err := decompress(contextReader{ctx, f})
	if err != nil {
		return nil, err
	}
	defer done()
	if _, plain := r.(*bufio.Reader); plain {
		_, err := f.Seek(0, io.SeekStart)
		return f, err
	}
	s, err := newSpool(dir)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(s.f, io.LimitReader(r, maxBytes+1))
	if err == nil && n > maxBytes {
		err = fmt.Errorf("it has more than %d bytes (--max-size)", maxBytes)
	}
	if err == nil {
		_, err = s.f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = s.f.Close()
		return nil, disk.NoSpace(dir, err)
	}
	return s.f, nil
}
