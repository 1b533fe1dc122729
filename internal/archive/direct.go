package archive

import "unsafe"

// A large file can be read and written past the page cache: open(2), O_DIRECT. In an emulated microVM the file's bytes are
// then moved by the VMM, and not by instructions of the guest.
const (
	// directFile is the size of a file from which it pays, in bytes.
	directFile = 1 << 20
	// directBuffer is how much is read or written at once.
	directBuffer = 1 << 20
	// directUnit is what an offset in a file is a multiple of when writing is fast: a block of the file system.
	directUnit = 4096
)

// Aligned returns memory for direct input and output of n bytes, whose begin is on a page.
func Aligned(n int) []byte {
	b := make([]byte, n+directUnit)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (directUnit - 1)
	return b[skip : skip+n : skip+n]
}

// IsAligned reports whether b begins at a multiple of unit, a power of two.
func IsAligned(b []byte, unit int) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&uintptr(unit-1) == 0
}
