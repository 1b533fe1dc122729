package project

import "fmt"

// maxExamples of a list of paths.
const maxExamples = 20

// Report says what was packed and what was not.
type Report struct {
	Files     int   // regular files
	Dirs      int   // without the project's own
	Symlinks  int   // symbolic links
	HardLinks int   // further names of files that are counted above
	Bytes     int64 // contents of files
	Ignored   int   // left out by an ignore rule; a directory counts once

	Special    int   // sockets, FIFOs and devices, left out
	Unreadable Paths // left out: no permission, or an I/O error; of a directory, its contents
	Unfit      Paths // left out: a path too long, a file too large, or too many directories for ext4
	Changed    Paths // packed as they were at one moment, or gone before they could be: they changed meanwhile
	Notes      []string

	ImageBytes int64 // size of the image
	Cached     bool  // the tree has not changed since Options.Cache got the image
}

// Paths counts paths and keeps the first of them as examples.
type Paths struct {
	Count    int
	Examples []string // at most 20
}

func (p *Paths) add(path string) {
	p.Count++
	if len(p.Examples) < maxExamples {
		p.Examples = append(p.Examples, path)
	}
}

// Warnings are lines for the user about what is not in the image although git would keep it, or may not be what was meant.
func (r *Report) Warnings() []string {
	lines := append([]string(nil), r.Notes...)
	for _, list := range []struct {
		paths     Paths
		one, many string
	}{
		{r.Unreadable, "was left out: it cannot be read", "were left out: they cannot be read"},
		{r.Unfit, "was left out: ext4 cannot hold it", "were left out: ext4 cannot hold them"},
		{r.Changed, "changed while it was copied", "changed while they were copied"},
	} {
		switch n := list.paths.Count; {
		case n == 0:
		case n == 1:
			lines = append(lines, fmt.Sprintf("%q %s", list.paths.Examples[0], list.one))
		default:
			line := fmt.Sprintf("%d files and directories %s: ", n, list.many)
			for i, path := range list.paths.Examples {
				if i > 0 {
					line += ", "
				}
				line += fmt.Sprintf("%q", path)
			}
			if more := n - len(list.paths.Examples); more > 0 {
				line += fmt.Sprintf(" and %d more", more)
			}
			lines = append(lines, line)
		}
	}
	if r.Special > 0 {
		lines = append(lines, fmt.Sprintf("%d sockets, FIFOs or devices were left out", r.Special))
	}
	return lines
}
