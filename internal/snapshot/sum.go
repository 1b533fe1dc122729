package snapshot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cespare/xxhash/v2"

	"github.com/agentkernel/agentkernel/internal/disk"
)

// sumBlock is the unit in which zeros are left out of a sum.
const sumBlock = 64 << 10

var zeros [sumBlock]byte

// Sum is a checksum of a file: XXH64, in hex, over the number (little-endian u64) and the bytes of every block of 64 KiB that
// has anything but zeros, and then over the size. So holes cost nothing, wherever the host's file system puts them. It finds what a
// disk, a crash or a mistake has done to a file. It is no defence against somebody who wants to do harm, who would have to
// be this user: the directories are 0700. (SHA-256 takes seven times as long here, and would be most of a restore's time.)
func Sum(ctx context.Context, f *os.File) (sum string, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	if !info.Mode().IsRegular() {
		return "", 0, fmt.Errorf("%s is not a regular file", f.Name())
	}
	size = info.Size()
	h := xxhash.New()
	buf := make([]byte, 16*sumBlock)
	for pos := int64(0); pos < size; {
		start, end, err := disk.NextData(f, pos, size)
		if err != nil {
			return "", 0, err
		}
		// Whole blocks: what is a hole in them reads as zeros.
		start = max(pos, start/sumBlock*sumBlock)
		end = min(size, (end+sumBlock-1)/sumBlock*sumBlock)
		for pos = start; pos < end; {
			if ctx.Err() != nil {
				return "", 0, context.Cause(ctx)
			}
			n, err := f.ReadAt(buf[:min(int64(len(buf)), end-pos)], pos)
			if err != nil && (!errors.Is(err, io.EOF) || n == 0) {
				return "", 0, fmt.Errorf("read %s: %w", f.Name(), err)
			}
			n = addBlocks(h, buf[:n], pos, size)
			pos += int64(n)
		}
	}
	var last [8]byte
	binary.LittleEndian.PutUint64(last[:], uint64(size))
	_, _ = h.Write(last[:])
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// addBlocks adds the whole blocks of b, which begins at pos of a file of this size, and returns how many bytes these have.
func addBlocks(h *xxhash.Digest, b []byte, pos, size int64) int {
	done := 0
	for done < len(b) {
		n := min(sumBlock, len(b)-done)
		if n < sumBlock && pos+int64(done+n) < size {
			break // the rest comes with the next read
		}
		block := b[done : done+n]
		if !bytes.Equal(block, zeros[:n]) {
			var number [8]byte
			binary.LittleEndian.PutUint64(number[:], uint64(pos+int64(done))/sumBlock)
			_, _ = h.Write(number[:])
			_, _ = h.Write(block)
		}
		done += n
	}
	return done
}
