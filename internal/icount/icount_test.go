package icount

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

func TestAPIVersion(t *testing.T) {
	for in, want := range map[string]int{"6.2.0": 1, "7.2.22": 1, "8.2.1": 1, "9.0.0": 2, "10.1.0": 2, "11": 2} {
		if got, err := apiVersion(in); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", in, got, err, want)
		}
	}
	if _, err := apiVersion("x"); err == nil {
		t.Error("a version that is none was taken")
	}
}

func TestBuild(t *testing.T) {
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("there is no C compiler")
	}
	dir := filepath.Join(t.TempDir(), "cache")
	path, err := Build(t.Context(), dir, "7.2.22")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Build(t.Context(), dir, "7.1.0")
	if err != nil || again != path {
		t.Fatalf("%s, %v; want the same file as before", again, err)
	}
	if second, err := os.Stat(again); err != nil || !os.SameFile(info, second) {
		t.Error("it was compiled twice")
	}
	if newer, err := Build(t.Context(), dir, "9.2.0"); err != nil || newer == path {
		t.Errorf("%s, %v; want a file of its own for another API version", newer, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v; want two files and nothing else", entries, err)
	}
	if runtime.GOOS == "linux" {
		checkExports(t, path)
	}
}

func checkExports(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"qemu_plugin_version": true, "qemu_plugin_install": true}
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF {
			delete(want, s.Name)
		}
	}
	if len(want) != 0 {
		t.Errorf("the plugin does not export %v", want)
	}
}

func TestRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "count")
	if _, err := Read(file); err == nil {
		t.Error("a missing file was read")
	}
	if err := os.WriteFile(file, []byte{1, 2, 0, 0, 0, 0, 0, 0}, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := Read(file); err != nil || n != 0x201 {
		t.Errorf("%d, %v; want 513", n, err)
	}
	if err := os.WriteFile(file, []byte{1}, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file); err == nil {
		t.Error("a short file was read")
	}
}
