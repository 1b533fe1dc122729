package erofs

import (
	"fmt"
	"slices"

	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// inode is a node on its way into an image.
type inode struct {
	node   *tree.Node
	parent *inode // of a directory
	links  uint32
	layout uint16
	size   int64
	xattrs int   // bytes
	start  int64 // first block of the data; of compressed data, how many blocks it has
	inline int   // bytes that stand behind the inode
	pieces []piece
	offset int64 // in the area of inodes
}

// piece is a run of logical blocks that are stored together.
type piece struct {
	start      uint32 // block
	logical    uint16 // blocks
	physical   uint16 // blocks
	compressed bool
}

// number is the inode's number. It must not be 0, which readdir(3) has used for deleted entries.
func (i *inode) number() uint64 { return uint64(i.offset / slotSize) }

// canInline reports whether n bytes fit behind the inode, in one block.
func (i *inode) canInline(n int) bool { return inodeSize+i.xattrs+n <= blockSize }

// metaSize is how many bytes the inode takes up in its area, with all that belongs to it.
func (i *inode) metaSize() int {
	n := inodeSize + i.xattrs
	if i.layout == compressedFull {
		// A header of 8 bytes, 8 that are not used, an entry a block, and one that ends them: the kernel looks one further
		// than the last.
		return alignUp(n, 8) + 16 + indexSize*int(blocksOf(i.size)+1)
	}
	return n + i.inline
}

// collect makes the inodes of a tree, the children of each directory together, and refuses what the format cannot hold.
func collect(root *tree.Node) ([]*inode, map[*tree.Node]*inode, error) {
	byNode := make(map[*tree.Node]*inode)
	var list []*inode
	add := func(n *tree.Node, parent *inode) (*inode, error) {
		i := &inode{node: n, parent: parent, links: 1, xattrs: xattrSize(n.Xattrs)}
		if i.xattrs > maxXattrs {
			return nil, fmt.Errorf("extended attributes of %d bytes, and %d are possible", i.xattrs, maxXattrs)
		}
		byNode[n] = i
		list = append(list, i)
		return i, nil
	}
	first, err := add(root, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("/: %w", err)
	}
	first.parent = first
	for stack := []*inode{first}; len(stack) > 0; {
		dir := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		dir.links = 2
		var below []*inode
		for name, n := range dir.node.Children() {
			if known := byNode[n]; known != nil {
				known.links++
				continue
			}
			i, err := add(n, dir)
			if err != nil {
				return nil, nil, fmt.Errorf("%.200q: %w", name, err)
			}
			if n.IsDir() {
				dir.links++
				below = append(below, i)
			}
		}
		slices.Reverse(below)
		stack = append(stack, below...)
	}
	return list, byNode, nil
}

// encode appends the inode and its extended attributes.
func (i *inode) encode(b []byte, index uint32) ([]byte, error) {
	n := i.node
	at := len(b)
	b = append(b, make([]byte, inodeSize)...)
	h := b[at:]
	le.PutUint16(h[0:], i.layout<<1|1) // 1: the extended form
	if i.xattrs > 0 {
		le.PutUint16(h[2:], uint16(1+(i.xattrs-xattrHeader)/4))
	}
	le.PutUint16(h[4:], uint16(n.Mode))
	le.PutUint64(h[8:], uint64(i.size))
	switch n.Type() {
	case tree.TypeChar, tree.TypeBlock:
		le.PutUint32(h[16:], deviceNumber(n.Major, n.Minor))
	default:
		le.PutUint32(h[16:], uint32(i.start))
	}
	le.PutUint32(h[20:], index)
	le.PutUint32(h[24:], n.UID)
	le.PutUint32(h[28:], n.GID)
	le.PutUint64(h[32:], uint64(n.Mtime.Sec))
	le.PutUint32(h[40:], n.Mtime.Nsec)
	le.PutUint32(h[44:], i.links)
	return encodeXattrs(b, n.Xattrs)
}

// encodeIndex appends what says where compressed data is. b must end where an inode's attributes end.
func (i *inode) encodeIndex(b []byte) []byte {
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	header := [16]byte{}
	le.PutUint16(header[4:], adviseBigPcluster) // LZ4, one logical cluster a block: both are 0
	b = append(b, header[:]...)
	entry := func(kind uint16, low, high uint16) {
		b = le.AppendUint16(b, kind)
		b = le.AppendUint16(b, 0) // pieces begin where blocks begin
		b = le.AppendUint16(b, low)
		b = le.AppendUint16(b, high)
	}
	for _, p := range i.pieces {
		if !p.compressed {
			for k := range uint32(p.logical) {
				entry(lclusterPlain, uint16((p.start + k)), uint16((p.start+k)>>16))
			}
			continue
		}
		entry(lclusterHead, uint16(p.start), uint16(p.start>>16))
		for k := uint16(1); k < p.logical; k++ {
			back := k
			if k == 1 {
				back = firstNonHead | p.physical
			}
			entry(lclusterNonHead, back, p.logical-k)
		}
	}
	entry(lclusterPlain, 0, 0)
	return b
}
