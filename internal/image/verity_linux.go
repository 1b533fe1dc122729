package image

import (
	"encoding/hex"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// enableVerity has the host's file system check every later read of a file against a hash tree that it makes now:
// Documentation/filesystems/fsverity.rst, FS_IOC_ENABLE_VERITY. Most file systems cannot (ext4 can when it was made with
// -O verity, btrfs and f2fs can); nothing depends on it, so that is no error. The file is complete, and nobody has it open to be
// written to.
func enableVerity(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	arg := unix.FsverityEnableArg{Version: 1, Hash_algorithm: unix.FS_VERITY_HASH_ALG_SHA256, Block_size: 4096}
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_ENABLE_VERITY, uintptr(unsafe.Pointer(&arg)))
}

// Verity is the digest of a file by which the host's file system checks each read of it (FS_IOC_MEASURE_VERITY), or empty when
// it does not check.
func Verity(path string) string {
	f, _, err := openRegular(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	measured := struct {
		unix.FsverityDigest
		digest [64]byte
	}{FsverityDigest: unix.FsverityDigest{Size: 64}}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_MEASURE_VERITY, uintptr(unsafe.Pointer(&measured))); errno != 0 {
		return ""
	}
	name := map[uint16]string{unix.FS_VERITY_HASH_ALG_SHA256: "sha256", unix.FS_VERITY_HASH_ALG_SHA512: "sha512"}[measured.Algorithm]
	return fmt.Sprintf("%s:%s", name, hex.EncodeToString(measured.digest[:min(int(measured.Size), 64)]))
}
