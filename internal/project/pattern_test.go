package project

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestPatterns(t *testing.T) {
	for _, tc := range []struct {
		file, path string
		want       bool // ignored; a path with a "/" at its end is a directory
	}{
		{"a", "a", true}, {"a", "x/a", true}, {"a", "a/", true}, {"a", "ab", false}, {"A", "a", false},
		{"a/", "a", false}, {"a/", "a/", true}, {"a/", "x/a/", true},
		{"/a", "a", true}, {"/a", "x/a", false}, {"a/b", "a/b", true}, {"a/b", "x/a/b", false},
		{"*.o", "x/y.o", true}, {"*.o", "y.oo", false}, {"*", "x/y", true}, {"x/*", "x/y", true}, {"x/*.o", "x/y/z.o", false},
		{"a*b*c", "aXXbYYc", true}, {"a*b*c", "aXXbYY", false}, {"?", "a", true}, {"a?b", "a/b", false}, {"x/a?b", "x/a/b", false},
		{"**/a", "a", true}, {"**/a", "x/y/a", true}, {"**/a/b", "x/a/b", true}, {"a/**/b", "a/b", true}, {"a/**/b", "a/x/y/b", true},
		{"a/**", "a/x/y", true}, {"a/**", "a/", false}, {"a/x**y", "a/xzy", true}, {"a/x**y", "a/xz/y", false}, {"**", "x/y", true},
		{"***/a", "x/y/a", true}, {"a**/b", "ax/y/b", true}, {"?**/b", "ax/y/b", false}, {"a/**/**/b", "a/b", true},
		{"[ab]c", "ac", true}, {"[!ab]c", "ac", false}, {"[^ab]c", "xc", true}, {"[a-c]x", "bx", true}, {"[]x]", "]", true},
		{"[]-a]", "^", true}, {"[a-]", "-", true}, {"[[:digit:]]", "7", true}, {"[[:digit:]a]", "a", true}, {"[[:foo:]]", "f", false},
		{"[\\]]", "]", true}, {"[a", "[a", false}, {"[a", "a", false}, {"x/[^a]y", "x//y", false},
		{"\\#a", "#a", true}, {"#a", "#a", false}, {"\\!a", "!a", true}, {"a\\", "a\\", false}, {"a\\*", "a*", true}, {"a\\*", "ab", false},
		{"a ", "a", true}, {"a\\ ", "a ", true}, {"a\\ ", "a", false}, {"a\t", "a\t", true}, {" a", " a", true}, {"a b", "a b", true},
		{"a\r\nb", "a", true}, {"\ufeffa", "a", true}, {"", "a", false}, {"   ", " ", false}, {"/", "a/", false}, {"!", "a", false},
		{"*\n!a", "a", false}, {"*\n!a", "b", true}, {"!a\n*", "a", true}, {"a\n!a\na", "a", true}, {"\xff*", "\xffx", true},
		{strings.Repeat("a", maxPattern+1), strings.Repeat("a", maxPattern+1), false},
	} {
		var r *rules
		path, isDir := strings.CutSuffix(tc.path, "/")
		if got := r.with("", tc.file).ignored(path, isDir); got != tc.want {
			t.Errorf("%q ignores %q: %v, want %v", tc.file, tc.path, got, tc.want)
		}
	}
}

func TestDeeperRulesWin(t *testing.T) {
	var r *rules
	r = r.with("", "*.log\n/only-top\nsub/named").with("sub/", "!keep.log\n/here")
	for path, want := range map[string]bool{
		"sub/a.log": true, "sub/keep.log": false, "sub/x/keep.log": false,
		"sub/here": true, "sub/x/here": false, "sub/only-top": false, "sub/named": true, "sub/x/named": false,
	} {
		if got := r.ignored(path, false); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

// TestHostilePattern would not end within the life of the test's machine with a matcher that backtracks.
func TestHostilePattern(t *testing.T) {
	var r *rules
	r = r.with("", strings.Repeat("*a", 500)+"b\n"+strings.Repeat("**/a/", 400)+"b")
	if r.ignored(strings.Repeat("a/", 1000)+strings.Repeat("a", 255), false) {
		t.Error("it matched")
	}
}

// FuzzPatterns compares with git itself, where there is one.
func FuzzPatterns(f *testing.F) {
	for _, s := range []string{"a/**/b\x00a/x/b", "[!a-c[:digit:]]*\x00z9", "**/x/*.o\x00x/y.o", "\\ \x00 ", "a\\", "[]-z]\x00]", "[[:x]\x00:"} {
		file, path, _ := strings.Cut(s, "\x00")
		f.Add(file, path)
	}
	git, err := exec.LookPath("git")
	dir := ""
	if err == nil {
		dir = f.TempDir()
		if out, err := exec.Command(git, "init", "-q", dir).CombinedOutput(); err != nil {
			f.Fatalf("%v: %s", err, out)
		}
	}
	f.Fuzz(func(t *testing.T, file, path string) {
		var r *rules
		got := r.with("", file).ignored(path, false)
		if dir == "" || !validPath(path) || strings.ContainsRune(file, 0) {
			return
		}
		if want, ok := gitIgnores(t, git, dir, file, path); ok && got != want {
			t.Errorf("%q ignores %q: %v, and git says %v", file, path, got, want)
		}
	})
}

// validPath leaves out what a walk never asks about, and what git treats in its own way on the command line.
func validPath(path string) bool {
	if path == "." || len(path) > 200 || !filepath.IsLocal(path) || filepath.Clean(path) != path || strings.ContainsRune(path, 0) {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if strings.EqualFold(part, ".git") {
			return false
		}
	}
	return true
}

// gitIgnores asks git whether a file ignores a path. ok is false when one of the directories above it is ignored, which the
// walk finds out by itself.
func gitIgnores(t *testing.T, git, dir, file, path string) (ignored, ok bool) {
	t.Helper()
	writeFile(t, filepath.Join(dir, ".git/info/exclude"), file, 0o644)
	for above := filepath.Dir(path); above != "."; above = filepath.Dir(above) {
		if checkIgnore(t, git, dir, above+"/") {
			return false, false
		}
	}
	return checkIgnore(t, git, dir, path), true
}

func checkIgnore(t *testing.T, git, dir, path string) bool {
	t.Helper()
	cmd := exec.Command(git, "-C", dir, "-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", "--stdin", "-z", "-v", "-n")
	cmd.Stdin = strings.NewReader("./" + path + "\x00") // a path may begin with ":", which means something to git
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState.ExitCode() != 1 {
		t.Fatalf("git check-ignore %q: %v", path, err)
	}
	// source, line, pattern, path; the pattern is empty when none matches, and begins with ! when the last one negates.
	fields := strings.Split(string(out), "\x00")
	return len(fields) >= 4 && fields[2] != "" && !strings.HasPrefix(fields[2], "!")
}
