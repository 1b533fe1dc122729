package dockerfile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func tree(t *testing.T) Context {
	t.Helper()
	c := Context{Dir: t.TempDir(), Dockerfile: "build/Dockerfile"}
	put(t, c, map[string]string{
		"build/Dockerfile": "FROM scratch\n", "src/main.c": "int main;", "src/deep/a": "a", "node_modules/x/y": "y", "node_modules/keep": "k",
		".dockerignore": "node_modules\n!node_modules/keep\nbuild\n*.log\n", "out.log": "log",
	})
	return c
}

func put(t *testing.T, c Context, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(c.Dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func digest(t *testing.T, c Context) string {
	t.Helper()
	d, err := c.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What a builder can see changes the digest, and nothing else does.
func TestDigest(t *testing.T) {
	for what, step := range map[string]struct {
		change func(t *testing.T, c Context)
		same   bool
	}{
		"nothing":                 {func(*testing.T, Context) {}, true},
		"a time":                  {func(t *testing.T, c Context) { put(t, c, map[string]string{"src/main.c": "int main;"}) }, true},
		"an ignored file":         {func(t *testing.T, c Context) { put(t, c, map[string]string{"out.log": "other"}) }, true},
		"in an ignored directory": {func(t *testing.T, c Context) { put(t, c, map[string]string{"node_modules/x/z": "z"}) }, true},
		"a pipe":                  {func(t *testing.T, c Context) { _ = syscall.Mkfifo(filepath.Join(c.Dir, "pipe"), 0o600) }, true},
		"what is let in again":    {func(t *testing.T, c Context) { put(t, c, map[string]string{"node_modules/keep": "K"}) }, false},
		"the ignored Dockerfile":  {func(t *testing.T, c Context) { put(t, c, map[string]string{"build/Dockerfile": "FROM x\n"}) }, false},
		"what is ignored":         {func(t *testing.T, c Context) { put(t, c, map[string]string{".dockerignore": ""}) }, false},
		"the Dockerfile's own": {func(t *testing.T, c Context) {
			put(t, c, map[string]string{"build/Dockerfile.dockerignore": "src"})
		}, false},
		"content":     {func(t *testing.T, c Context) { put(t, c, map[string]string{"src/deep/a": "b"}) }, false},
		"a name":      {func(t *testing.T, c Context) { _ = os.Rename(c.Dir+"/src/deep/a", c.Dir+"/src/deep/b") }, false},
		"a mode":      {func(t *testing.T, c Context) { _ = os.Chmod(c.Dir+"/src/main.c", 0o755) }, false},
		"a directory": {func(t *testing.T, c Context) { _ = os.Mkdir(c.Dir+"/empty", 0o755) }, false},
		"a link":      {func(t *testing.T, c Context) { _ = os.Symlink("src", c.Dir+"/link") }, false},
	} {
		t.Run(what, func(t *testing.T) {
			c := tree(t)
			before := digest(t, c)
			step.change(t, c)
			if after := digest(t, c); (before == after) != step.same {
				t.Errorf("%s, then %s", before, after)
			}
		})
	}
}

// A copy has the digest of the original, and of what is in it only what a builder can see. Links that lead out are not followed.
func TestCopyTo(t *testing.T) {
	c := tree(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(c.Dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(c.Dir, "src/deep"), 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(c.Dir, "src/deep"), 0o755) })
	to := t.TempDir()
	copied, got, err := c.CopyTo(t.Context(), to)
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(to, "src/deep"), 0o755) })
	if err != nil || got != digest(t, c) || got != digest(t, copied) {
		t.Errorf("%s, %v; want %s; the copy has %s", got, err, digest(t, c), digest(t, copied))
	}
	var names []string
	err = filepath.WalkDir(to, func(p string, d os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(to, p); rel != "." {
			names = append(names, rel)
		}
		return err
	})
	want := []string{".dockerignore", "build", "build/Dockerfile", "node_modules", "node_modules/keep", "out", "src", "src/deep", "src/deep/a", "src/main.c"}
	if err != nil || !slices.Equal(names, want) {
		t.Errorf("copied\n%q, want\n%q (%v)", names, want, err)
	}
	if target, err := os.Readlink(filepath.Join(to, "out")); err != nil || target != secret {
		t.Errorf("the link is %q, %v", target, err)
	}
}

func TestContextErrors(t *testing.T) {
	c := tree(t)
	put(t, c, map[string]string{".dockerignore": "a[\n"})
	if _, err := c.Digest(t.Context()); err == nil || !strings.Contains(err.Error(), ".dockerignore") {
		t.Error(err)
	}
	if _, err := (Context{Dir: filepath.Join(t.TempDir(), "none"), Dockerfile: "Dockerfile"}).Digest(t.Context()); err == nil {
		t.Error("no directory: no error")
	}
}
