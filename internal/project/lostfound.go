package project

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// lostFound is a directory in the root of every ext4 file system.
const lostFound = "lost+found"

var errLayout = errors.New("the image has another layout than expected")

// hideLostFound takes the name lost+found, which every ext4 file system must have for e2fsck, out of the root directory of
// an image that tar2ext4 wrote: a project's tools would trip over a directory that they may not enter and that the project
// does not have. The kernel does not need it, and nothing is ever repaired in a read-only image.
//
// On disk: Documentation/filesystems/ext4 (group_descr.rst, inodes.rst, ifork.rst, directory.rst). An entry whose inode is 0
// is unused.
func hideLostFound(f interface {
	io.ReaderAt
	io.WriterAt
}) error {
	le := binary.LittleEndian
	read := func(off int64, n int) ([]byte, error) {
		b := make([]byte, n)
		if _, err := f.ReadAt(b, off); err != nil {
			return nil, fmt.Errorf("read the image: %w", err)
		}
		return b, nil
	}
	group, err := read(block, 32) // the first group descriptor, in the block after the superblock's
	if err != nil {
		return err
	}
	const inodeSize, rootInode = 256, 2
	root, err := read(int64(le.Uint32(group[0x8:]))*block+(rootInode-1)*inodeSize, inodeSize)
	if err != nil {
		return err
	}
	extents := root[0x28:] // i_block: a header of 12 bytes, then extents of 12
	if le.Uint16(extents) != 0xf30a || le.Uint16(extents[2:]) < 1 || le.Uint16(extents[6:]) != 0 {
		return errLayout
	}
	dir := int64(le.Uint32(extents[12+8:])) * block
	// ".", "..", and then the entry with the lowest inode number: 11, which is the first that is not reserved.
	const third, lostFoundInode = 12 + 12, 11
	entry, err := read(dir+third, 8+len(lostFound))
	if err != nil {
		return err
	}
	if le.Uint32(entry) != lostFoundInode || int(entry[6]) != len(lostFound) || string(entry[8:]) != lostFound {
		return errLayout
	}
	if _, err := f.WriteAt(make([]byte, 4), dir+third); err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	return nil
}
