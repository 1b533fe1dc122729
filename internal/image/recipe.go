package image

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/images/rootfs"
	"github.com/agentkernel/agentkernel/internal/image/tree"
)

// buildTime is the modification time of every file of an image that we build. A fixed one, for the same bytes each time;
// not 1970, which zip and some build tools refuse.
var buildTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// recipe says what an image consists of. Its text form is one line of fields for each thing, and "#" begins a comment:
//
//	dir     PATH MODE UID GID
//	file    PATH MODE UID GID SOURCE   a file of the recipe's own directory
//	link    PATH TARGET                a symbolic link
//	busybox PATH MODE UID GID          the busybox program
//	applets DIR                        a symbolic link to busybox in DIR for each of its applets
//	include RECIPE                     the files of another recipe
//
// A recipe may have something compiled from Debian's sources. What that makes is added to the files above:
//
//	sources SUITE NAME…                source packages of a release
//	unpack  SUITE NAME…                packages whose files are needed for it, without what they depend on
//	build   SOURCE                     a script of the recipe's own directory: internal/image/compile.go
//
// A recipe with packages is made from a Debian release; the files above are added where no package brings them:
//
//	suite        NAME                  of the release
//	packages     NAME…                 with all that they depend on
//	drop         PATTERN…              not taken from packages: path.Match of a path or of a directory above it
//	strip        PATTERN…              programs, objects and archives of objects, which lose what only debuggers read
//	unneed       LIBRARY PATTERN…      programs and libraries for which that library is not loaded: they never call it
//	npm          NAME VERSION SHA512   a package of the npm registry without dependencies, at /usr/lib/node_modules
type recipe struct {
	entries  []entry
	compile  compilation
	suite    string
	packages []string
	drop     []string
	strip    []string
	unneed   []unneeded
	npm      []npmPackage
}

// unneeded is a library that what some patterns match does not need, although it says so.
type unneeded struct {
	library  string
	patterns []string
}

// entry is one file of a recipe.
type entry struct {
	kind, path string
	mode       fs.FileMode // permissions, and fs.ModeSticky
	uid, gid   int
	source     string // of a file; target of a link
	files      fs.FS  // what source is a path in
}

// Recipes returns the names of the images that Build can make.
func Recipes() []string {
	entries, err := rootfs.Recipes.ReadDir(".")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// readRecipe reads a recipe and those that it includes.
func readRecipe(name string) (recipe, error) {
	dir, err := fs.Sub(rootfs.Recipes, name)
	if err != nil {
		return recipe{}, err
	}
	text, err := fs.ReadFile(dir, "recipe")
	if err != nil {
		return recipe{}, fmt.Errorf("read the recipe of %s: %w", name, err)
	}
	r, err := parseRecipe(text, dir)
	if err != nil {
		return recipe{}, fmt.Errorf("read the recipe of %s: %w", name, err)
	}
	return r, nil
}

// parseRecipe reads the text form. Sources are paths in files.
func parseRecipe(data []byte, files fs.FS) (r recipe, err error) {
	sc := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if err := r.add(fields, files); err != nil {
			return r, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if (r.suite == "") != (len(r.packages) == 0) {
		return r, errors.New("a suite goes with packages, and packages with a suite")
	}
	if (r.compile.script == nil) != (len(r.compile.sources) == 0) {
		return r, errors.New("sources go with a script that builds them")
	}
	return r, sc.Err()
}

// add takes the fields of one line.
func (r *recipe) add(fields []string, files fs.FS) error {
	kind, args := fields[0], fields[1:]
	if want := map[string]int{"include": 1, "suite": 1, "build": 1, "npm": 3}[kind]; want != 0 && len(args) != want {
		return fmt.Errorf("%s has %d arguments, not %d", kind, len(args), want)
	}
	switch kind {
	case "include":
		other, err := readRecipe(args[0])
		r.entries = append(r.entries, other.entries...)
		if other.compile.script != nil {
			r.compile = other.compile
		}
		return err
	case "sources", "unpack":
		if len(args) < 2 {
			return fmt.Errorf("%s has no packages", kind)
		}
		list := &r.compile.sources
		if kind == "unpack" {
			list = &r.compile.unpack
		}
		*list = append(*list, suitePackages{args[0], args[1:]})
	case "build":
		var err error
		r.compile.script, err = fs.ReadFile(files, args[0])
		return err
	case "suite":
		r.suite = args[0]
	case "packages":
		r.packages = append(r.packages, args...)
	case "drop":
		r.drop = append(r.drop, args...)
		return checkPatterns(args)
	case "strip":
		r.strip = append(r.strip, args...)
		return checkPatterns(args)
	case "unneed":
		if len(args) < 2 {
			return errors.New("unneed has a library and patterns")
		}
		r.unneed = append(r.unneed, unneeded{args[0], args[1:]})
		return checkPatterns(args[1:])
	case "npm":
		r.npm = append(r.npm, npmPackage{args[0], args[1], args[2]})
	default:
		e, err := parseEntry(fields)
		e.files = files
		r.entries = append(r.entries, e)
		return err
	}
	return nil
}

func checkPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || !path.IsAbs(p) {
			return fmt.Errorf("%q is not a pattern of absolute paths", p)
		}
	}
	return nil
}

// dropped reports whether the recipe leaves out what a package has at a clean absolute path.
func (r *recipe) dropped(p string) bool {
	for ; p != "/"; p = path.Dir(p) {
		if matches(r.drop, p) {
			return true
		}
	}
	return false
}

// matches reports whether a path is matched by one of some patterns, which have been checked.
func matches(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		match, _ := path.Match(pattern, p)
		return match
	})
}

func parseEntry(fields []string) (e entry, err error) {
	want := map[string]int{"dir": 5, "file": 6, "link": 3, "busybox": 5, "applets": 2}[fields[0]]
	if want == 0 {
		return e, fmt.Errorf("unknown kind %q", fields[0])
	}
	if len(fields) != want {
		return e, fmt.Errorf("%s has %d fields, not %d", fields[0], want, len(fields))
	}
	e.kind, e.path = fields[0], fields[1]
	if path.Clean(e.path) != e.path || !path.IsAbs(e.path) {
		return e, fmt.Errorf("%q is not a clean absolute path", e.path)
	}
	if want == 3 || want == 6 {
		e.source = fields[want-1]
	}
	if want < 5 {
		return e, nil
	}
	mode, err := strconv.ParseUint(fields[2], 8, 16)
	if err != nil || mode > 0o1777 {
		return e, fmt.Errorf("mode %q", fields[2])
	}
	e.mode = fs.FileMode(mode & 0o777)
	if mode&0o1000 != 0 {
		e.mode |= fs.ModeSticky
	}
	for i, id := range []*int{&e.uid, &e.gid} {
		if *id, err = strconv.Atoi(fields[3+i]); err != nil || *id < 0 || *id > 65535 {
			return e, fmt.Errorf("user or group %q", fields[3+i])
		}
	}
	return e, nil
}

// expand replaces applets by links, and sorts by path, so that a directory comes before what is in it.
func expand(entries []entry, applets []string) ([]entry, error) {
	var out []entry
	program := ""
	for _, e := range entries {
		switch e.kind {
		case "busybox":
			program = e.path
			out = append(out, e)
		case "applets":
			for _, a := range applets {
				if p := path.Join(e.path, a); p != program {
					out = append(out, entry{kind: "link", path: p, source: path.Base(program)})
				}
			}
		default:
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	seen := map[string]bool{"/": true}
	for i, e := range out {
		if i > 0 && out[i-1].path == e.path {
			return nil, fmt.Errorf("%s comes twice", e.path)
		}
		if !seen[path.Dir(e.path)] {
			return nil, fmt.Errorf("%s is not in a directory of the recipe", e.path)
		}
		seen[e.path] = e.kind == "dir"
	}
	return out, nil
}

// treeOf makes a tree of entries, which are as expand returns them.
func treeOf(entries []entry, busybox []byte) (*tree.Node, error) {
	mtime := tree.Time{Sec: buildTime.Unix()}
	root := tree.New(mtime)
	for _, e := range entries {
		n := &tree.Node{Mode: uint32(e.mode.Perm()), UID: uint32(e.uid), GID: uint32(e.gid), Mtime: mtime}
		if e.mode&fs.ModeSticky != 0 {
			n.Mode |= 0o1000
		}
		switch e.kind {
		case "link":
			n.Mode, n.Target = tree.TypeSymlink|0o777, e.source
		case "dir":
			n.Mode |= tree.TypeDir
		default:
			data, err := e.contents(busybox)
			if err != nil {
				return nil, fmt.Errorf("read what is to be at %s: %w", e.path, err)
			}
			n.Mode |= tree.TypeRegular
			n.Contents = tree.Contents{Source: bytes.NewReader(data), Size: int64(len(data))}
		}
		if e.path == "/" {
			root = n
			continue
		}
		tree.Lookup(root, path.Dir(e.path)).Set(path.Base(e.path), n, 0)
	}
	return root, nil
}

// contents is what is in a regular file.
func (e entry) contents(busybox []byte) ([]byte, error) {
	if e.kind == "busybox" {
		return busybox, nil
	}
	return fs.ReadFile(e.files, e.source)
}
