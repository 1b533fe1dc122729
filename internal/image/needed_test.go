package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// cc compiles text with this host's compiler, for programs of 64 bits.
func cc(t *testing.T, out, text string, args ...string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the programs of this host are not ELF")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no gcc here")
	}
	cmd := exec.Command("gcc", append([]string{"-x", "c", "-", "-o", out}, args...)...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// A program runs without a library that it says it needs, as long as it calls nothing of it; what else it needs it keeps.
func TestUnneed(t *testing.T) {
	dir := t.TempDir()
	const first, second, program = "libfirst.so", "libsecond.so", "program"
	cc(t, filepath.Join(dir, first), "int first(void) { return 3; }", "-shared", "-fPIC", "-Wl,-soname,"+first)
	cc(t, filepath.Join(dir, second), "int second(void) { return 5; }", "-shared", "-fPIC", "-Wl,-soname,"+second)
	path := filepath.Join(dir, program)
	build := func(binding string) []byte {
		cc(t, path, "int first(void); int second(void); int main(int n, char **a) { return n > 1 ? first() : second(); }",
			"-L"+dir, "-lfirst", "-lsecond", "-Wl,-z,"+binding, "-Wl,-rpath,"+dir)
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	code := func(args ...string) (int, string) {
		cmd := exec.Command(path, args...)
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	file := build("lazy")
	size := len(file)
	if done, err := unneed(file, "libthird.so"); done || err != nil {
		t.Errorf("a library that it does not name: %v, %v", done, err)
	}
	if done, err := unneed(file, first); !done || err != nil || len(file) != size {
		t.Fatalf("%v, %v, %d bytes", done, err, len(file))
	}
	if done, err := unneed(file, first); done || err != nil {
		t.Errorf("again: %v, %v", done, err)
	}
	if err := os.WriteFile(path, file, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, first)); err != nil {
		t.Fatal(err)
	}
	if n, out := code(); n != 5 {
		t.Errorf("without the library: exit code %d\n%s", n, out)
	}
	if n, out := code("x"); n != 127 || !strings.Contains(out, "undefined symbol: first") {
		t.Errorf("what calls the library: exit code %d\n%s", n, out)
	}
	cc(t, filepath.Join(dir, first), "int first(void) { return 3; }", "-shared", "-fPIC", "-Wl,-soname,"+first)
	eager := build("now")
	before := bytes.Clone(eager)
	if _, err := unneed(eager, first); err == nil || !strings.Contains(err.Error(), "bound when it is loaded") || !bytes.Equal(eager, before) {
		t.Errorf("bound at once: %v", err)
	}
}

func FuzzUnneed(f *testing.F) {
	if self, err := os.Executable(); err == nil {
		if program, err := os.ReadFile(self); err == nil {
			f.Add(program[:min(len(program), 4096)])
		}
	}
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, file []byte) {
		size := len(file)
		if _, err := unneed(file, "libc.so.6"); err == nil && len(file) != size {
			t.Error("the file has another size")
		}
	})
}
