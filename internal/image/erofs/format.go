package erofs

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// Sizes, in bytes.
const (
	blockSize   = 4096
	superOffset = 1024
	superSize   = 128
	inodeSize   = 64 // the extended form, which has times and ids in full
	slotSize    = 32 // unit of inode numbers
	direntSize  = 12
	indexSize   = 8 // of one logical cluster of compressed data
)

const (
	magic = 0xe0f5e1e2

	compatChecksum = 1 << 0
	compatMtime    = 1 << 1

	incompatZeroPadding = 1 << 0 // compressed data ends where its blocks end
	incompatConfigs     = 1 << 1 // compression parameters follow the superblock; data may span blocks
)

// Layouts of an inode's data.
const (
	flatPlain      = 0
	compressedFull = 1 // with an index entry for each block
	flatInline     = 2 // what does not fill a block stands behind the inode
)

// Types of index entries.
const (
	lclusterPlain   = 0
	lclusterHead    = 1
	lclusterNonHead = 2
)

const (
	adviseBigPcluster = 1 << 1
	firstNonHead      = 1 << 11 // marks a count of blocks in place of a distance
)

// maxDistance of LZ4's matches: the format's own.
const maxDistance = 65535

// volumeID is the UUID of every image: nothing is ever looked up by it, and a random one would make the bytes differ.
var volumeID = [16]byte{0x61, 0x6b, 0x75, 0x70, 0x70, 0x65, 0x40, 0x00, 0x80, 0, 0, 0, 0, 0, 0, 2}

var le = binary.LittleEndian

// super is the content of block 0.
type super struct {
	inodes     uint64
	buildTime  int64
	blocks     uint32
	meta       uint32 // block where inodes begin
	root       uint16
	compressed bool
	maxBlocks  uint16 // of one compressed piece
}

func (s super) block() []byte {
	block := make([]byte, blockSize)
	b := block[superOffset:]
	le.PutUint32(b[0:], magic)
	le.PutUint32(b[8:], compatChecksum|compatMtime)
	b[12] = 12 // log2 of blockSize
	le.PutUint16(b[14:], s.root)
	le.PutUint64(b[16:], s.inodes)
	le.PutUint64(b[24:], uint64(s.buildTime))
	le.PutUint32(b[36:], s.blocks)
	le.PutUint32(b[40:], s.meta)
	copy(b[48:], volumeID[:])
	if s.compressed {
		le.PutUint32(b[80:], incompatZeroPadding|incompatConfigs)
		le.PutUint16(b[84:], 1) // LZ4 alone
		c := b[superSize:]
		le.PutUint16(c[0:], 14) // length of what follows
		le.PutUint16(c[2:], maxDistance)
		le.PutUint16(c[4:], s.maxBlocks)
	}
	// CRC-32C without the final complement, from the superblock to the end of the block.
	le.PutUint32(b[4:], ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return block
}

// fileType is what a directory entry says about a node.
func fileType(n *tree.Node) byte {
	switch n.Type() {
	case tree.TypeRegular:
		return 1
	case tree.TypeDir:
		return 2
	case tree.TypeChar:
		return 3
	case tree.TypeBlock:
		return 4
	case tree.TypeFIFO:
		return 5
	case tree.TypeSymlink:
		return 7
	}
	return 0
}

// deviceNumber is the kernel's 32-bit form: new_encode_dev of linux/kdev_t.h.
func deviceNumber(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

func alignUp[T int | int64](n, to T) T { return (n + to - 1) / to * to }

func blocksOf(n int64) int64 { return alignUp(n, blockSize) / blockSize }
