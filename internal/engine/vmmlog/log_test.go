package vmmlog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, path string, max int64, fresh bool) (*Log, error) {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return Open(dir, filepath.Base(path), max, fresh)
}

func TestBoundedLog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "log")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	const max = 1000
	l, err := open(t, path, max, true)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range 500 {
		if i == 250 { // its directory may be given another name
			if err := os.Rename(filepath.Dir(path), filepath.Join(dir, "b")); err != nil {
				t.Fatal(err)
			}
			path = filepath.Join(dir, "b", "log")
		}
		if _, err := fmt.Fprintf(l, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() > max {
			t.Fatalf("after line %d: %v, %v; want at most %d bytes", i, info.Size(), err, max)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
	for i, line := range lines { // whole lines, the newest ones, none missing
		if want := fmt.Sprintf("line %d", 500-len(lines)+i); line != want {
			t.Fatalf("line %d of what is left is %q, want %q", i, line, want)
		}
	}
	if len(got) < max/3 {
		t.Errorf("only %d bytes are left", len(got))
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v; want the log alone", entries, err)
	}
}

func TestBoundedLogWithoutLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := open(t, path, 1000, true)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 10 {
		if n, err := l.Write(bytes.Repeat([]byte("x"), 4096)); n != 4096 || err != nil {
			t.Fatal(n, err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 1000 || info.Size() == 0 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}

// Where no second file can be made the log starts over, and stays bounded.
func TestBoundedLogWithoutRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := open(t, path, 1000, true)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 100 {
		if _, err := l.Write([]byte("0123456789abcdef\n")); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 1000 || info.Size() == 0 {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
}

func TestBoundedLogGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for i, fresh := range []bool{true, false, true} {
		l, err := open(t, path, 1000, fresh)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(l, "%d", i)
		if got, want := string(l.Tail(10)), []string{"0", "01", "2"}[i]; got != want {
			t.Errorf("it holds %q, want %q", got, want)
		}
		l.Close()
	}
}

func TestLastLines(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"\n\n":                     "",
		"a\r\nb\n\nc\n":            "b; c",
		"\x1b[31mred\x1b[0m \x00é": "[31mred[0m",
		strings.Repeat("x", 300) + strings.Repeat("y", MaxShown) + "\n": strings.Repeat("y", MaxShown),
	} {
		if got := LastLines([]byte(in), 2); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestKernelPanic(t *testing.T) {
	console := "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[    1.1] CPU: 0\r\n"
	if got, want := KernelPanic([]byte(console)), "Kernel panic - not syncing: VFS: Unable to mount root fs"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := KernelPanic([]byte("all is well")); got != "" {
		t.Errorf("%q in a console without a panic", got)
	}
}
