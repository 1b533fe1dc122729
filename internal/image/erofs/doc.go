// Package erofs writes a tree as an EROFS file-system image: read-only, compressed with LZ4, the same bytes for the same
// tree. The format is that of the kernel's fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst, as Linux 5.13 and
// newer read it; docs/adr/0008 says why there is a writer here.
//
// An image is written once from front to back:
//
//	block 0     the superblock, at byte 1024, written last
//	data        the contents of files, in the order of the inodes
//	inodes      64 bytes each, followed by its extended attributes, and by the end of its data or the index of its
//	            compressed data
//	directories the blocks of directories that did not fit beside their inodes
//
// Inodes stand together by directory, so that listing one reads few blocks. A file's data is compressed in pieces of 64 KiB,
// each independent of the others, so that a guest that reads a page unpacks no more than that.
package erofs
