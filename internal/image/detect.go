package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// The file systems that an image may be, by the names that the kernel gives them.
const (
	Erofs    = "erofs"
	Squashfs = "squashfs"
	Ext4     = "ext4"
)

// headLen is how much of a file the superblocks take up: 1 KiB of boot sector, and 1 KiB of superblock (ext4's).
const headLen = 2048

var errUnknownFS = errors.New("it has none of the superblocks of erofs, squashfs and ext4")

// detect tells the file system of a file of size bytes by its superblock, and checks that the file is not shorter than the
// file system in it.
func detect(r io.ReaderAt, size int64) (string, error) {
	head := make([]byte, headLen)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read its superblock: %w", err)
	}
	fs, need, err := superblock(head[:n])
	if err != nil {
		return "", err
	}
	if need > uint64(size) {
		return "", fmt.Errorf("it is truncated: its %s file system has %d bytes, and the file only %d", fs, need, size)
	}
	return fs, nil
}

// superblock reads the first bytes of a file. length is how many bytes the file system has.
func superblock(head []byte) (fs string, length uint64, err error) {
	le := binary.LittleEndian
	switch {
	case len(head) >= 96 && string(head[:4]) == "hsqs": // fs/squashfs/squashfs_fs.h, struct squashfs_super_block
		if major := le.Uint16(head[28:]); major != 4 {
			return "", 0, fmt.Errorf("its squashfs has version %d, and the kernel reads version 4", major)
		}
		return Squashfs, le.Uint64(head[40:]), nil
	case len(head) >= 1024+128 && le.Uint32(head[1024:]) == 0xe0f5e1e2: // fs/erofs/erofs_fs.h, struct erofs_super_block
		sb := head[1024:]
		shift := sb[12]
		if shift < 9 || shift > 16 {
			return "", 0, fmt.Errorf("its erofs superblock is damaged: block size 2^%d", shift)
		}
		return Erofs, uint64(le.Uint32(sb[36:])) << shift, nil
	case len(head) >= headLen && le.Uint16(head[1024+0x38:]) == 0xef53: // Documentation/filesystems/ext4/super.rst
		sb := head[1024:]
		shift := le.Uint32(sb[0x18:])
		if shift > 6 {
			return "", 0, fmt.Errorf("its ext4 superblock is damaged: block size 2^%d", uint64(shift)+10)
		}
		blocks := uint64(le.Uint32(sb[0x4:]))
		if le.Uint32(sb[0x60:])&0x80 != 0 { // INCOMPAT_64BIT
			blocks |= uint64(le.Uint32(sb[0x150:])) << 32
		}
		hi, length := bits.Mul64(blocks, 1024<<shift)
		if hi != 0 || blocks == 0 {
			return "", 0, fmt.Errorf("its ext4 superblock is damaged: %d blocks", blocks)
		}
		return Ext4, length, nil
	}
	return "", 0, errUnknownFS
}
