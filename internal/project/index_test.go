package project

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseIndexOfGit(t *testing.T) {
	for name, tc := range map[string]struct{ init, update []string }{
		"version 2":     {nil, []string{"--index-version", "2"}},
		"version 4":     {nil, []string{"--index-version", "4"}},
		"SHA-256":       {[]string{"--object-format=sha256"}, nil},
		"with a flag":   {nil, []string{"--skip-worktree", "a"}}, // extended flags: version 3
		"untracked ext": {nil, []string{"--force-untracked-cache"}},
	} {
		dir := t.TempDir()
		git(t, dir, append([]string{"init", "-q"}, tc.init...)...)
		want := []string{"a", "a.b", "a/b", "a0", "dir/" + strings.Repeat("x", 200), "dir/\n", "\xff"}
		for _, name := range want {
			if name == "a" {
				continue // it is a directory here
			}
			writeFile(t, filepath.Join(dir, name), "", 0o644)
		}
		want[0] = "a/c"
		writeFile(t, filepath.Join(dir, "a/c"), "", 0o644)
		git(t, dir, "add", "-A")
		if tc.update != nil {
			args := tc.update
			if args[0] == "--skip-worktree" {
				args = []string{"--skip-worktree", "a/b"}
			}
			git(t, dir, append([]string{"update-index"}, args...)...)
		}
		data, err := os.ReadFile(filepath.Join(dir, ".git/index"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseIndex(data)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
		if !got.file("a/b") || got.file("a") || !got.below("a") || !got.below("dir") || got.below("a.b") || got.below("di") {
			t.Errorf("%s: lookups are wrong", name)
		}
	}
}

func TestParseIndexRefusesASplitOne(t *testing.T) {
	dir := t.TempDir()
	git(t, dir, "init", "-q")
	writeFile(t, filepath.Join(dir, "a"), "", 0o644)
	git(t, dir, "add", "a")
	git(t, dir, "update-index", "--split-index")
	data, err := os.ReadFile(filepath.Join(dir, ".git/index"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseIndex(data); err == nil || !strings.Contains(err.Error(), "split") {
		t.Errorf("%v, want an error about a split index", err)
	}
}

// indexOf makes an index of version 4 with one entry for each name, each dropping some bytes of the one before.
func indexOf(count uint32, entries ...string) []byte {
	b := append([]byte("DIRC"), 0, 0, 0, 4)
	b = binary.BigEndian.AppendUint32(b, count)
	for _, e := range entries {
		b = append(b, make([]byte, 62)...)
		b = append(b, e...)
	}
	return append(b, make([]byte, 20)...)
}

func TestParseIndexHostile(t *testing.T) {
	good := indexOf(2, "\x00abc\x00", "\x02x\x00")
	if names, err := parseIndex(good); err != nil || !slices.Equal(names, tracked{"abc", "ax"}) {
		t.Fatalf("%q, %v", names, err)
	}
	for name, data := range map[string][]byte{
		"empty":             nil,
		"other file":        []byte("PACK\x00\x00\x00\x02\x00\x00\x00\x00"),
		"version 9":         append([]byte("DIRC\x00\x00\x00\x09\x00\x00\x00\x00"), make([]byte, 20)...),
		"more than it has":  indexOf(0xffffffff, "\x00abc\x00"),
		"drops too much":    indexOf(2, "\x00abc\x00", "\x04x\x00"),
		"name without end":  indexOf(1, "\x00abc")[:80],
		"endless integer":   indexOf(1, strings.Repeat("\xff", 20)+"\x00abc\x00"),
		"name too long":     indexOf(1, "\x00"+strings.Repeat("a", maxTrackedName+1)+"\x00"),
		"too many bytes":    indexOf(70000, append([]string{"\x00" + strings.Repeat("a", 4000) + "\x00"}, slices.Repeat([]string{"\x00\x00"}, 69999)...)...),
		"cut off":           good[:len(good)-1],
		"extension too big": append(append(slices.Clone(good[:len(good)-20]), "TREE\xff\xff\xff\xff"...), make([]byte, 20)...),
	} {
		if names, err := parseIndex(data); err == nil {
			t.Errorf("%s: %d names and no error", name, len(names))
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add(indexOf(2, "\x00abc\x00", "\x02x\x00"))
	f.Add([]byte("DIRC\x00\x00\x00\x02\x00\x00\x00\x01" + strings.Repeat("\x00", 62) + "a\x00" + strings.Repeat("\x00", 28)))
	f.Fuzz(func(t *testing.T, data []byte) {
		names, err := parseIndex(data)
		if err != nil {
			return
		}
		total := 0
		for _, name := range names {
			total += len(name)
			if name == "" || len(name) > maxTrackedName || !names.file(name) {
				t.Fatalf("name %q", name)
			}
		}
		if total > maxTrackedBytes {
			t.Fatal("too much memory")
		}
	})
}
