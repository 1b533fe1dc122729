package project

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// packedFiles packs a tree and returns the files and links that are in the image, but for .git.
func packedFiles(t *testing.T, dir string) ([]string, Report) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	r := mustPack(t, dir, image)
	return listFiles(t, unpack(t, image)), r
}

func listFiles(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == ".git" && d.IsDir() {
			if err == nil {
				err = fs.SkipDir
			}
			return err
		}
		if rel, err := filepath.Rel(dir, path); err == nil && !d.IsDir() {
			files = append(files, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

// gitFiles is what git would keep: what it tracks and what it would add.
func gitFiles(t *testing.T, dir string) []string {
	t.Helper()
	out := git(t, dir, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	files := strings.FieldsFunc(out, func(r rune) bool { return r == 0 })
	slices.Sort(files)
	return slices.Compact(files)
}

func TestPackKeepsWhatGitKeeps(t *testing.T) {
	dir := t.TempDir()
	git(t, dir, "init", "-q")
	for name, data := range map[string]string{
		".gitignore":     "*.log\nnode_modules/\n/build\n!keep.log\nignored-dir/\ncache/*\n!cache/kept\n",
		"a.go":           "",
		"a.log":          "",
		"keep.log":       "",
		"build/out":      "",
		"sub/build/in":   "",
		"sub/.gitignore": "!*.log\n/local\n*.tmp\n", "sub/b.log": "", "sub/local": "", "sub/x/local": "", "sub/y.tmp": "",
		"node_modules/m/index.js":  "",
		"sub/node_modules/n/x.js":  "",
		"node_modules.go":          "",
		"ignored-dir/tracked":      "",
		"ignored-dir/untracked":    "",
		"ignored-dir/deep/tracked": "",
		"ignored-dir/.gitignore":   "!*",
		"cache/dropped":            "",
		"cache/kept":               "",
		"excluded":                 "",
		"tracked.log":              "",
		"with space /x":            "",
		"dir.log/inside":           "",
	} {
		writeFile(t, filepath.Join(dir, name), data, 0o644)
	}
	writeFile(t, filepath.Join(dir, ".git/info/exclude"), "/excluded\n", 0o644)
	if err := os.Symlink("sub", filepath.Join(dir, "node_modules-link")); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "add", "-f", "ignored-dir/tracked", "ignored-dir/deep/tracked", "tracked.log")
	git(t, dir, "commit", "-q", "-m", "x")

	got, r := packedFiles(t, dir)
	if diff := cmp.Diff(gitFiles(t, dir), got); diff != "" {
		t.Errorf("what git keeps (-) and what was packed (+):\n%s", diff)
	}
	if r.Ignored == 0 || len(r.Warnings()) != 0 {
		t.Errorf("%d ignored, warnings %q", r.Ignored, r.Warnings())
	}
	// The history is in the image, and good.
	image := filepath.Join(t.TempDir(), "image")
	mustPack(t, dir, image)
	copied := unpack(t, image)
	git(t, copied, "-c", "safe.directory=*", "fsck", "--strict")
	if out := git(t, copied, "-c", "safe.directory=*", "status", "--porcelain", "--untracked-files=no"); out != "" {
		t.Errorf("git status in the image:\n%s", out)
	}
}

// TestPackAgreesWithGit makes trees and ignore files by chance, from an alphabet in which they often meet.
func TestPackAgreesWithGit(t *testing.T) {
	if testing.Short() {
		t.Skip("runs git some hundred times")
	}
	git(t, t.TempDir(), "version")
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	name := func() string { return pick("a", "b", "c", "ab", "a.b", "x", "A", "a b", "!a", "[a]") }
	line := func() string {
		s := pick("", "", "", "!", "!", "/", "**/", "a/")
		for range 1 + rng.IntN(3) {
			s += pick("a", "b", "a", "x", "*", "?", "**", "/", "/", "[ab]", "[!a]", "[a-c]", "\\a", "\\!", ".", " ", "/**/", "[[:alpha:]]", "[")
		}
		return s + pick("", "", "", "/", "/**", "/*")
	}
	for round := range 150 {
		dir := t.TempDir()
		git(t, dir, "init", "-q")
		for range 25 {
			path := name()
			for rng.IntN(3) > 0 {
				path += "/" + name()
			}
			if os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o755) == nil {
				_ = os.WriteFile(filepath.Join(dir, path), nil, 0o644) // may be a directory by now
			}
		}
		files := listFiles(t, dir)
		rules := map[string]string{}
		for _, at := range append([]string{"x"}, files[:min(3, len(files))]...) {
			at = filepath.Dir(at)
			for range 1 + rng.IntN(4) {
				rules[at] += line() + "\n"
			}
		}
		for at, text := range rules {
			writeFile(t, filepath.Join(dir, at, ".gitignore"), text, 0o644)
		}
		if round%3 == 0 {
			git(t, dir, append([]string{"--literal-pathspecs", "add", "-f", "--"}, files[:len(files)/4+1]...)...)
		}
		got := walkFiles(t, dir)
		if want := gitFiles(t, dir); !slices.Equal(want, got) {
			diff := cmp.Diff(want, got)
			t.Fatalf("round %d, with %q: what git keeps (-) and what is packed (+):\n%s", round, rules, diff)
		}
	}
}

// walkFiles is packedFiles without an image.
func walkFiles(t *testing.T, dir string) []string {
	t.Helper()
	top, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	var stream bytes.Buffer
	w := newWalker(context.Background(), top, &stream, &Report{}, nil)
	if err := errors.Join(w.walk(), w.out.Close()); err != nil {
		t.Fatal(err)
	}
	var files []string
	for r := tar.NewReader(&stream); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(files)
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeDir && !strings.HasPrefix(h.Name, ".git/") {
			files = append(files, h.Name)
		}
	}
}

func TestNestedRepositories(t *testing.T) {
	dir := t.TempDir()
	upstream := t.TempDir()
	git(t, upstream, "init", "-q")
	writeFile(t, filepath.Join(upstream, "lib.c"), "", 0o644)
	writeFile(t, filepath.Join(upstream, "lib.o"), "", 0o644)
	git(t, upstream, "add", "-f", ".")
	git(t, upstream, "commit", "-q", "-m", "x")

	git(t, dir, "init", "-q")
	writeFile(t, filepath.Join(dir, ".gitignore"), "*.o\n*.txt\n", 0o644)
	git(t, dir, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", upstream, "module")
	writeFile(t, filepath.Join(dir, "module/new.o"), "", 0o644) // the rules around a repository are not its own
	writeFile(t, filepath.Join(dir, ".git/modules/module/info/exclude"), "*.bak\n", 0o644)
	writeFile(t, filepath.Join(dir, "module/x.bak"), "", 0o644)

	git(t, dir, "init", "-q", "clone")
	writeFile(t, filepath.Join(dir, "clone/notes.txt"), "", 0o644)
	writeFile(t, filepath.Join(dir, "clone/.gitignore"), "secret\n", 0o644)
	writeFile(t, filepath.Join(dir, "clone/secret"), "", 0o644)

	writeFile(t, filepath.Join(dir, "not-one/.git/junk"), "", 0o644)
	writeFile(t, filepath.Join(dir, "not-one/x.txt"), "", 0o644)
	writeFile(t, filepath.Join(dir, "tree/.git"), "gitdir: /elsewhere/.git/worktrees/tree\n", 0o644)
	writeFile(t, filepath.Join(dir, "tree/x.txt"), "", 0o644)
	writeFile(t, filepath.Join(dir, "escape/.git"), "gitdir: ../../../../../etc\n", 0o644)
	writeFile(t, filepath.Join(dir, "escape/x.txt"), "", 0o644)

	got, r := packedFiles(t, dir)
	want := []string{
		".gitignore", ".gitmodules", "clone/.gitignore", "clone/notes.txt", "escape/.git", "escape/x.txt",
		"module/.git", "module/lib.c", "module/lib.o", "module/new.o", "tree/.git", "tree/x.txt",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if w := r.Warnings(); len(w) != 2 || !strings.Contains(w[0], `"escape"`) || !strings.Contains(w[1], `"tree"`) {
		t.Errorf("warnings %q", w)
	}
}

func TestRulesThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	git(t, dir, "init", "-q")
	outside := filepath.Join(t.TempDir(), "rules")
	writeFile(t, outside, "kept*\n", 0o644)
	if err := os.Symlink(outside, filepath.Join(dir, ".gitignore")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "sub/.gitignore"), strings.Repeat("#\n", maxIgnoreFile), 0o644)
	writeFile(t, filepath.Join(dir, ".git/index"), "DIRC damaged", 0o644)
	writeFile(t, filepath.Join(dir, "kept"), "", 0o644)
	got, r := packedFiles(t, dir)
	if diff := cmp.Diff([]string{".gitignore", "kept", "sub/.gitignore"}, got); diff != "" {
		t.Error(diff)
	}
	if w := r.Warnings(); len(w) != 2 || !strings.Contains(w[0], `".git/index"`) || !strings.Contains(w[1], `"sub/.gitignore"`) {
		t.Errorf("warnings %q", w)
	}
}

func ExampleReport_Warnings() {
	r := Report{Special: 1}
	r.Unreadable.add("secrets/key")
	for _, line := range r.Warnings() {
		fmt.Println(line)
	}
	// Output:
	// "secrets/key" was left out: it cannot be read
	// 1 sockets, FIFOs or devices were left out
}
