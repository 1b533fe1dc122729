// Package tree is a file system's tree in memory: names, attributes and links, with the contents of files left where they
// are. Layers of container images are merged in it, and writers of file-system images read it.
package tree

import (
	"io"
	"iter"
	"slices"
)

// The types of files, as st_mode has them: inode(7).
const (
	TypeMask    = 0o170000
	TypeFIFO    = 0o010000
	TypeChar    = 0o020000
	TypeDir     = 0o040000
	TypeBlock   = 0o060000
	TypeRegular = 0o100000
	TypeSymlink = 0o120000
)

// Limits of Linux on what a tree may hold, in bytes: NAME_MAX, PATH_MAX with its NUL, XATTR_NAME_MAX, XATTR_SIZE_MAX.
const (
	MaxName       = 255
	MaxPath       = 4095
	MaxXattrName  = 255
	MaxXattrValue = 65536
)

// Time is a modification time: seconds since 1970, which may be negative, and nanoseconds below 1e9.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Contents are the bytes of a regular file: Size of them at Off of Source. Source is nil for an empty file.
type Contents struct {
	Source    io.ReaderAt
	Off, Size int64
}

// Node is one inode. It may have several names, unless it is a directory.
type Node struct {
	Mode         uint32 // type and permissions, with set-user-ID, set-group-ID and sticky bits
	UID, GID     uint32
	Mtime        Time
	Major, Minor uint32            // of a device
	Target       string            // of a symbolic link
	Contents     Contents          // of a regular file
	Xattrs       map[string]string // by full name, such as security.capability

	entries map[string]entry
}

// entry is a name in a directory. Layer says which layer of an image gave it.
type entry struct {
	node  *Node
	layer int
}

// Type returns the type bits of Mode.
func (n *Node) Type() uint32 { return n.Mode & TypeMask }

// IsDir reports whether n is a directory.
func (n *Node) IsDir() bool { return n.Type() == TypeDir }

// Len is the number of names in a directory.
func (n *Node) Len() int { return len(n.entries) }

// Child returns what a name in a directory stands for, or nil.
func (n *Node) Child(name string) *Node { return n.entries[name].node }

// LayerOf returns the layer that a name in a directory came with.
func (n *Node) LayerOf(name string) int { return n.entries[name].layer }

// Set gives a name in a directory to child, in place of what it stood for.
func (n *Node) Set(name string, child *Node, layer int) {
	if n.entries == nil {
		n.entries = make(map[string]entry)
	}
	n.entries[name] = entry{child, layer}
}

// Remove takes a name out of a directory. It may be missing.
func (n *Node) Remove(name string) { delete(n.entries, name) }

// Names returns the names in a directory in the order of their bytes, which file-system images need.
func (n *Node) Names() []string {
	names := make([]string, 0, len(n.entries))
	for name := range n.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Children iterates over the names of a directory, in the order of their bytes.
func (n *Node) Children() iter.Seq2[string, *Node] {
	return func(yield func(string, *Node) bool) {
		for _, name := range n.Names() {
			if !yield(name, n.Child(name)) {
				return
			}
		}
	}
}
