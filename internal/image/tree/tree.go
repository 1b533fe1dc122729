package tree

import (
	"errors"
	"fmt"
	"iter"
	"path"
	"strings"
)

// New returns a tree with an empty root directory of mode 0755, owned by root.
func New(mtime Time) *Node { return NewDir(mtime) }

// NewDir returns an empty directory of mode 0755, owned by root.
func NewDir(mtime Time) *Node { return &Node{Mode: TypeDir | 0o755, Mtime: mtime} }

// Errors of following a path.
var (
	ErrLoop    = errors.New("too many symbolic links")
	ErrTooLong = fmt.Errorf("a path of more than %d bytes", MaxPath)
)

// maxLinks is how many symbolic links a path may lead through: path_resolution(7).
const maxLinks = 40

// A Walker follows paths in a tree. Symbolic links on the way are followed as a process does whose root directory is the
// tree's: an absolute target begins at the root, and ".." of the root is the root.
type Walker struct {
	Root *Node
	// Missing, when set, is asked for a directory to put in the place of a component that is missing or is no directory.
	// Without it, or when it returns nil, there is nothing to be found.
	Missing func(parent *Node, name string) *Node
}

// Dir follows dir, which is slash-separated, to a directory. It returns nil when there is none.
func (w Walker) Dir(dir string) (*Node, error) {
	// The directories from the root to where we are, for "..", each with the length of its path. That is bounded, although
	// dir is: through symbolic links, directories could be made ever deeper.
	type place struct {
		node *Node
		path int
	}
	at := []place{{w.Root, 0}}
	todo := split(dir)
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(at) > 1 {
				at = at[:len(at)-1]
			}
			continue
		}
		here := at[len(at)-1]
		parent := here.node
		next := parent.Child(name)
		if next != nil && next.Type() == TypeSymlink {
			if links++; links > maxLinks {
				return nil, ErrLoop
			}
			if strings.HasPrefix(next.Target, "/") {
				at = at[:1]
			}
			todo = append(split(next.Target), todo...)
			continue
		}
		if next == nil || !next.IsDir() {
			if w.Missing == nil {
				return nil, nil
			}
			if next = w.Missing(parent, name); next == nil {
				return nil, nil
			}
		}
		if here.path+1+len(name) > MaxPath {
			return nil, ErrTooLong
		}
		at = append(at, place{next, here.path + 1 + len(name)})
	}
	return at[len(at)-1].node, nil
}

func split(p string) []string { return strings.Split(p, "/") }

// Lookup returns what a path stands for, without following a symbolic link at its end, or nil.
func Lookup(root *Node, p string) *Node {
	p = path.Clean("/" + p)
	if p == "/" {
		return root
	}
	dir, err := Walker{Root: root}.Dir(path.Dir(p))
	if err != nil || dir == nil {
		return nil
	}
	return dir.Child(path.Base(p))
}

// Walk iterates over everything below root and root itself, a directory before what is in it, names in the order of their
// bytes. A path begins with "/". A node with several names comes once for each.
func Walk(root *Node) iter.Seq2[string, *Node] {
	return func(yield func(string, *Node) bool) {
		type visit struct {
			path string
			node *Node
		}
		stack := []visit{{"/", root}} // not recursion: a tree may be as deep as a path is long
		for len(stack) > 0 {
			v := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if !yield(v.path, v.node) {
				return
			}
			if !v.node.IsDir() {
				continue
			}
			names := v.node.Names()
			for i := len(names) - 1; i >= 0; i-- {
				stack = append(stack, visit{path.Join(v.path, names[i]), v.node.Child(names[i])})
			}
		}
	}
}

// Links counts the names of every node that is no directory and has more than one.
func Links(root *Node) map[*Node]int {
	once := make(map[*Node]struct{})
	more := make(map[*Node]int)
	for _, n := range Walk(root) {
		if n.IsDir() {
			continue
		}
		if _, again := once[n]; !again {
			once[n] = struct{}{}
			continue
		}
		more[n] = max(more[n], 1) + 1
	}
	return more
}
