package archive

// A large file can be read and written past the page cache: open(2), O_DIRECT. In an emulated microVM the file's bytes are
// then moved by the VMM, and not by instructions of the guest.
const (
	// DirectSize is how much is read or written at once, in bytes.
	DirectSize = 1 << 20
	// directFile is the size of a file from which it pays, in bytes.
	directFile = 1 << 20
	// directUnit is what an offset in a file is a multiple of when writing is fast: a block of the file system.
	directUnit = 4096
)
