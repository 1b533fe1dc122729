package erofs

import (
	"slices"

	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// dirNames returns the names of a directory as they are stored: with "." and "..", in the order of their bytes.
func dirNames(n *tree.Node) []string {
	names := append(n.Names(), ".", "..")
	slices.Sort(names)
	return names
}

// dirBlocks cuts names into runs that fill one block each, and returns where the runs end and the size of the whole in bytes.
func dirBlocks(names []string) (ends []int, size int64) {
	used := 0
	for i, name := range names {
		need := direntSize + len(name)
		if used+need > blockSize {
			ends = append(ends, i)
			used = 0
		}
		used += need
	}
	ends = append(ends, len(names))
	return ends, int64(len(ends)-1)*blockSize + int64(used)
}

// encodeDir returns the contents of a directory.
func (w *writer) encodeDir(i *inode) []byte {
	names := dirNames(i.node)
	ends, size := dirBlocks(names)
	out := make([]byte, 0, size)
	begin := 0
	for k, end := range ends {
		run := names[begin:end]
		begin = end
		offset := direntSize * len(run)
		for _, name := range run {
			var target *inode
			switch name {
			case ".":
				target = i
			case "..":
				target = i.parent
			default:
				target = w.byNode[i.node.Child(name)]
			}
			out = le.AppendUint64(out, target.number())
			out = le.AppendUint16(out, uint16(offset))
			out = append(out, fileType(target.node), 0)
			offset += len(name)
		}
		for _, name := range run {
			out = append(out, name...)
		}
		if k < len(ends)-1 {
			out = append(out, make([]byte, alignUp(len(out), blockSize)-len(out))...)
		}
	}
	return out
}
