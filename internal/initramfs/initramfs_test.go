package initramfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/cavaliergopher/cpio"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestArchive(t *testing.T) {
	agent := []byte("\x7fELF agent")
	a, err := build(agent)
	if err != nil {
		t.Fatal(err)
	}
	b, err := build(agent)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("the same agent gives another archive (%v)", err)
	}
	r := cpio.NewReader(bytes.NewReader(a))
	dirs, init := map[string]bool{}, []byte(nil)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode.IsDir() {
			dirs[h.Name] = true
		} else if h.Name == "init" && h.Mode.Perm() == 0o755 {
			if init, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !bytes.Equal(init, agent) || !dirs["dev"] || !dirs["proc"] {
		t.Errorf("/init is %q, directories are %v", init, dirs)
	}
}

func TestStore(t *testing.T) {
	dir := t.TempDir() + "/new"
	path, err := store(t.Context(), dir, sandbox.X8664, []byte("agent"))
	if err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(path)
	if err := os.WriteFile(path, want[:len(want)/2], 0o600); err != nil { // as by a full disk
		t.Fatal(err)
	}
	again, err := store(t.Context(), dir, sandbox.X8664, []byte("agent"))
	if got, _ := os.ReadFile(path); err != nil || again != path || !bytes.Equal(got, want) {
		t.Errorf("a truncated initramfs is not mended: %s, %v", again, err)
	}
	other, err := store(t.Context(), dir, sandbox.X8664, []byte("Agent"))
	if err != nil || other == path {
		t.Errorf("another agent has the same initramfs: %s, %v", other, err)
	}
}

func TestMissingAgent(t *testing.T) {
	fsys := fstest.MapFS{"bin/akguest-amd64": {Data: []byte("x")}}
	if got, err := agentFor(fsys, sandbox.X8664); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	_, err := agentFor(fsys, sandbox.AArch64)
	var e *sandbox.Error
	if !errors.As(err, &e) || e.Kind != sandbox.Unavailable || !strings.Contains(e.Hint, "make build") {
		t.Errorf("%v, want an error that says how to build it", err)
	}
	if _, err := agentFor(fsys, "vax"); sandbox.KindOf(err) != sandbox.Invalid {
		t.Error(err)
	}
}
