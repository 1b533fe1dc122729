package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// symbol is one line of a fragment: what a Kconfig symbol must be.
type symbol struct {
	Name  string // with its CONFIG_ prefix
	Value string // as .config writes it; "n" is "is not set"
	// IfKnown excuses the symbol where this version's Kconfig has no symbol of
	// that name. It is written CONFIG_X?=y, for symbols that a stable series
	// renamed or gained on its way.
	IfKnown bool
	Origin  string // "common.config:12"
}

var (
	fragmentSet   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(CONFIG_[A-Za-z0-9_]+)(\?)?=(.+)$`) })
	fragmentUnset = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^# (CONFIG_[A-Za-z0-9_]+) is not set$`) })
	fragmentValue = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(y|-?[0-9]+|0x[0-9a-fA-F]+|"[^"\\]*")$`) })
)

// parseFragment reads one fragment. A line that is neither a symbol, a comment
// nor blank is an error: a typing mistake must not be taken for a comment.
func parseFragment(name string, text []byte) ([]symbol, error) {
	var out []symbol
	sc := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimRight(sc.Text(), " \t")
		origin := fmt.Sprintf("%s:%d", name, n)
		switch {
		case fragmentUnset().MatchString(line):
			out = append(out, symbol{Name: fragmentUnset().FindStringSubmatch(line)[1], Value: "n", Origin: origin})
		case line == "" || strings.HasPrefix(line, "#"):
			if strings.HasPrefix(strings.TrimLeft(line, "# \t"), "CONFIG_") {
				return nil, fmt.Errorf("%s: %q is a comment that looks like a symbol; to turn one off write `# CONFIG_X is not set`", origin, line)
			}
		default:
			m := fragmentSet().FindStringSubmatch(line)
			if m == nil || !fragmentValue().MatchString(m[3]) {
				return nil, fmt.Errorf("%s: %q is not CONFIG_X=value", origin, line)
			}
			out = append(out, symbol{Name: m[1], Value: m[3], IfKnown: m[2] != "", Origin: origin})
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read fragment %s: %w", name, err)
	}
	return out, nil
}

// joinFragments puts fragments behind one another and refuses a symbol that
// two lines set, since only one of them could be right.
func joinFragments(parts ...[]symbol) ([]symbol, error) {
	seen := map[string]symbol{}
	var out []symbol
	for _, part := range parts {
		for _, s := range part {
			if first, dup := seen[s.Name]; dup {
				return nil, fmt.Errorf("%s: %s is already set in %s", s.Origin, s.Name, first.Origin)
			}
			seen[s.Name] = s
			out = append(out, s)
		}
	}
	return out, nil
}

// writeSymbols appends symbols to a .config. Of two lines for one symbol
// Kconfig takes the last, so that appending is merging.
func writeSymbols(w io.Writer, symbols []symbol) error {
	for _, s := range symbols {
		line := s.Name + "=" + s.Value
		if s.Value == "n" {
			line = "# " + s.Name + " is not set"
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return fmt.Errorf("append to .config: %w", err)
		}
	}
	return nil
}

// parseConfig reads a .config as Kconfig writes it. Symbols that are off are
// left out.
func parseConfig(r io.Reader) (map[string]string, error) {
	out := map[string]string{}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		name, value, ok := strings.Cut(sc.Text(), "=")
		if ok && strings.HasPrefix(name, "CONFIG_") && value != "n" {
			out[name] = value
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read .config: %w", err)
	}
	return out, nil
}

// checkSymbols compares what was wanted with the .config that olddefconfig
// made. The error names every symbol that differs, its wanted value, and the
// fragment's line. known says whether this version's Kconfig has a symbol.
func checkSymbols(wanted []symbol, config map[string]string, known func(name string) bool) error {
	var wrong []string
	for _, s := range wanted {
		got, ok := config[s.Name]
		if !ok {
			got = "n"
		}
		if got == s.Value || s.IfKnown && !known(s.Name) {
			continue
		}
		why := ""
		if !ok && !known(s.Name) {
			why = ", since this version has no such symbol"
		}
		wrong = append(wrong, fmt.Sprintf("  %s: wanted %s, got %s%s (%s)", s.Name, s.Value, got, why, s.Origin))
	}
	if len(wrong) == 0 {
		return nil
	}
	return errors.New("the kernel's configuration is not what the fragments ask for:\n" + strings.Join(wrong, "\n") +
		"\neach needs a dependency that is off, or was renamed in this version")
}

var kconfigEntry = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^[ \t]*(?:menu)?config[ \t]+([A-Za-z0-9_]+)[ \t]*$`)
})

// kconfigNames collects every symbol, with its CONFIG_ prefix, that a source
// tree's Kconfig files declare.
func kconfigNames(tree fs.FS) (map[string]bool, error) {
	names := map[string]bool{}
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"Documentation", "tools"}, path) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasPrefix(filepath.Base(path), "Kconfig") {
			return nil
		}
		text, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		for _, m := range kconfigEntry().FindAllSubmatch(text, -1) {
			names["CONFIG_"+string(m[1])] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the Kconfig files: %w", err)
	}
	return names, nil
}
