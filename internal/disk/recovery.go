package disk

import (
	"encoding/binary"
	"fmt"
	"os"
	"syscall"
)

// NeedsRecovery reports whether the ext4 file system in a file has a journal that is to be replayed: it was mounted to be written to,
// and not unmounted. (Documentation/filesystems/ext4/super.rst: INCOMPAT_RECOVER.) It is the guest that wrote it, so it may
// say anything; a file that is no ext4 is an error.
func NeedsRecovery(path string) (bool, error) {
	const magic, incompat, recover = 0x38, 0x60, 0x4
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false, fmt.Errorf("look for a journal: %w", err)
	}
	defer f.Close()
	var sb [1024]byte
	if _, err := f.ReadAt(sb[:], 1024); err != nil {
		return false, fmt.Errorf("look for a journal: %w", err)
	}
	if binary.LittleEndian.Uint16(sb[magic:]) != 0xef53 {
		return false, fmt.Errorf("%s has no ext4 file system any more", path)
	}
	return binary.LittleEndian.Uint32(sb[incompat:])&recover != 0, nil
}
