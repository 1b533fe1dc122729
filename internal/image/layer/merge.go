package layer

import (
	"errors"
	"fmt"
	"path"

	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// Merge lays a layer over a tree. index is greater than that of any layer that the tree has already. A layer can be merged
// once, since its nodes become the tree's.
//
// Entries take effect in the order of the archive. A directory that is there already keeps what is in it and gets new
// attributes; everything else replaces what had its name. A path leads through symbolic links as it does for a process
// inside the image. Directories that the archive leaves out are made, with the time of what is in them. Whiteouts delete
// what layers below have given and nothing of their own layer, wherever in the archive they stand.
func (l *Layer) Merge(root *tree.Node, index int) error {
	for _, c := range l.changes {
		if err := c.apply(root, index); err != nil {
			return fmt.Errorf("entry %.200q: %w", path.Join("/", c.dir, c.name), err)
		}
	}
	l.changes = nil
	return nil
}

func (c change) apply(root *tree.Node, index int) error {
	walk := tree.Walker{Root: root}
	if c.kind == put || c.kind == hardLink {
		var mtime tree.Time
		if c.node != nil {
			mtime = c.node.Mtime
		}
		walk.Missing = func(parent *tree.Node, name string) *tree.Node {
			n := tree.NewDir(mtime)
			parent.Set(name, n, index)
			return n
		}
	}
	dir, err := walk.Dir(c.dir)
	if err != nil {
		return err
	}
	switch c.kind {
	case whiteout:
		if dir != nil {
			deleteBelow(dir, c.name, index)
		}
	case opaque:
		if dir != nil {
			for _, name := range dir.Names() {
				deleteBelow(dir, name, index)
			}
		}
	case hardLink:
		target, err := follow(root, c.link)
		if err != nil {
			return err
		}
		dir.Set(c.name, target, index)
	case put:
		old := root
		if c.name != "" {
			old = dir.Child(c.name)
		}
		if old != nil && old.IsDir() && c.node.IsDir() {
			old.Mode, old.UID, old.GID, old.Mtime, old.Xattrs = c.node.Mode, c.node.UID, c.node.GID, c.node.Mtime, c.node.Xattrs
			c.node = old
		}
		if c.name != "" {
			dir.Set(c.name, c.node, index)
		}
	}
	return nil
}

// follow finds the target of a hard link: never through a symbolic link at its end, link(2).
func follow(root *tree.Node, p string) (*tree.Node, error) {
	n := tree.Lookup(root, p)
	if n == nil {
		return nil, fmt.Errorf("its target %.200q does not exist", p)
	}
	if n.IsDir() {
		return nil, errors.New("its target is a directory")
	}
	return n, nil
}

// deleteBelow deletes a name and what is below it, but for what layer index has put there and the directories on the way to
// it.
func deleteBelow(dir *tree.Node, name string, index int) {
	n := dir.Child(name)
	if n == nil {
		return
	}
	if n.IsDir() {
		for _, child := range n.Names() {
			deleteBelow(n, child, index)
		}
		if n.Len() > 0 {
			return
		}
	}
	if dir.LayerOf(name) < index {
		dir.Remove(name)
	}
}
