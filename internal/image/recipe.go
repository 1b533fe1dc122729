package image

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/erofs/go-erofs"

	"github.com/agentkernel/agentkernel/images/rootfs"
)

// buildTime is the modification time of every file of an image that we build. A fixed one, for the same bytes each time;
// not 1970, which zip and some build tools refuse.
var buildTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// entry is one file of a recipe. Its text form is one line of fields, and "#" begins a comment:
//
//	dir     PATH MODE UID GID
//	file    PATH MODE UID GID SOURCE   a file of the recipe's own directory
//	link    PATH TARGET                a symbolic link
//	busybox PATH MODE UID GID          the busybox program
//	applets DIR                        a symbolic link to busybox in DIR for each of its applets
type entry struct {
	kind, path string
	mode       fs.FileMode // permissions, and fs.ModeSticky
	uid, gid   int
	source     string // of a file; target of a link
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

// parseRecipe reads the text form.
func parseRecipe(data []byte) ([]entry, error) {
	var entries []entry
	sc := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		e, err := parseEntry(fields)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		entries = append(entries, e)
	}
	return entries, sc.Err()
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

// writeRecipe writes the image of a recipe, an uncompressed erofs, to out. Equal input gives equal bytes. (Compressed, base
// would be half the size, and every start of a program would pay for it: under emulation one that counts.)
func writeRecipe(out io.WriteSeeker, tempDir, name string, busybox []byte, applets []string) error {
	dir, err := fs.Sub(rootfs.Recipes, name)
	if err != nil {
		return err
	}
	text, err := fs.ReadFile(dir, "recipe")
	if err != nil {
		return err
	}
	entries, err := parseRecipe(text)
	if err != nil {
		return fmt.Errorf("read the recipe: %w", err)
	}
	entries, err = expand(entries, applets)
	if err != nil {
		return err
	}
	w := erofs.Create(out, erofs.WithBuildTime(uint64(buildTime.Unix()), 0), erofs.WithTempDir(tempDir))
	for _, e := range entries {
		if err := writeEntry(w, e, dir, busybox); err != nil {
			return fmt.Errorf("write %s: %w", e.path, err)
		}
	}
	return w.Close()
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

func writeEntry(w *erofs.Writer, e entry, files fs.FS, busybox []byte) error {
	switch e.kind {
	case "link":
		if err := w.Symlink(e.source, e.path); err != nil {
			return err
		}
		return w.Chtimes(e.path, buildTime, buildTime)
	case "dir":
		if err := w.Mkdir(e.path, e.mode.Perm()); err != nil {
			return err
		}
	default:
		data := busybox
		if e.kind == "file" {
			var err error
			if data, err = fs.ReadFile(files, e.source); err != nil {
				return err
			}
		}
		f, err := w.Create(e.path)
		if err != nil {
			return err
		}
		if _, err := f.Write(data); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	if err := w.Chmod(e.path, e.mode); err != nil {
		return err
	}
	if err := w.Chown(e.path, e.uid, e.gid); err != nil {
		return err
	}
	return w.Chtimes(e.path, buildTime, buildTime)
}
