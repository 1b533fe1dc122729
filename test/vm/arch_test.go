package vm

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/agentkernel/agentkernel/internal/image/imagetest"
)

// otherBusybox is the static busybox for arm64 that building the base image for it has downloaded.
func otherBusybox(t *testing.T) string {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("this is about an arm64 image on an x86_64 host")
	}
	if _, err := exec.LookPath("qemu-system-aarch64"); err != nil {
		t.Skip(err)
	}
	for _, name := range []string{"cache/image/busybox-static-arm64", "cache/busybox-static-arm64"} {
		data, err := os.ReadFile(filepath.Join(hostData, name))
		if err == nil {
			return string(data)
		}
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	t.Skip("there is no busybox for arm64: make test-arm64 downloads one")
	return ""
}

// An image of another architecture runs when that is asked for, and one is told once what it costs; nobody gets it unasked.
func TestImageOfAnotherArchitecture(t *testing.T) {
	program := otherBusybox(t)
	h := newImageHome(t)
	if !strings.Contains(h.ok("kernel", "list", "--json"), `"aarch64"`) {
		t.Skip("there is no kernel for arm64: make test-arm64 builds one")
	}
	reg := imagetest.NewRegistry(t)
	ref := reg.Push("other:1", imagetest.Image(t, "arm64", v1.Config{Cmd: []string{"/bin/uname", "-m"}},
		imagetest.Layer(t, imagetest.Dir("bin", 0o755), imagetest.File("bin/uname", program, 0o755))))

	h.fails(125, []string{"for arm64, and not for amd64", "--arch aarch64"}, "run", "--image", ref)
	h.fails(125, []string{"for arm64, and not for amd64", "--arch aarch64"}, "image", "pull", ref)
	r := h.run("run", "--image", ref, "--platform", "linux/arm64", "--memory", "256M")
	if r.code != 0 || r.stdout != "aarch64\n" || strings.Count(r.stderr, "emulates every instruction") != 1 {
		t.Errorf("exit code %d, %q, %q", r.code, r.stdout, r.stderr)
	}
	// It is in the store now, and not what is asked for all the same.
	h.fails(125, []string{"for x86_64", "there is one for aarch64, which --arch aarch64 asks for"}, "create", "x", "--image", ref, "--pull", "never")
	if r := h.run("create", "x", "--image", ref, "--arch", "arm64", "-m", "256M"); r.code != 0 || strings.Count(r.stderr, "emulates every instruction") != 1 {
		t.Errorf("create: %+v", r)
	}
	if sb := h.inspect("x"); sb.Warnings == nil || len(*sb.Warnings) != 1 {
		t.Errorf("inspect does not tell: %+v", sb.Warnings)
	}
	if r := h.run("start", "x"); r.code != 0 || r.stderr != "" {
		t.Errorf("start: %+v", r)
	}
}
