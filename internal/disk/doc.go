// Package disk makes the writable disks of sandboxes: an empty ext4 file system in a sparse file, which costs some
// 130 KiB of the host whatever its virtual size. Each size is made once by mke2fs (e2fsprogs) and kept; a new disk is a
// copy of it, as a reflink where the host's file system can.
//
// Every function that makes a file makes it under a temporary name beside its destination and renames it, so that a crash,
// a cancelled context or a full disk never leaves half a file under the name that was asked for.
package disk
