package project

import "strings"

// rules are the ignore rules that hold in one directory of a repository: its own .gitignore's, and those of the directories
// above it. A nil *rules has none.
type rules struct {
	above    *rules
	base     string // path of the directory in the repository, with a "/" at its end, or ""
	patterns []pattern
}

// ignored reports what the rules say about a path of the repository: the last line of the deepest file that matches wins.
// The caller does not ask about what is in an ignored directory.
func (r *rules) ignored(path string, isDir bool) bool {
	for ; r != nil; r = r.above {
		below := strings.TrimPrefix(path, r.base)
		for i := len(r.patterns) - 1; i >= 0; i-- {
			if p := &r.patterns[i]; p.match(below, isDir) {
				return !p.negated
			}
		}
	}
	return false
}

// with adds the .gitignore of a directory of the repository.
func (r *rules) with(base, data string) *rules {
	patterns := parsePatterns(data)
	if len(patterns) == 0 {
		return r
	}
	return &rules{above: r, base: base, patterns: patterns}
}
