package vm

import (
	"encoding/json"
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

// dockerProject is a project with a Dockerfile, whose image says what is in the file "said".
func dockerProject(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "My Project")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "env"), 0o755),
		os.WriteFile(filepath.Join(dir, "agentkernel.toml"), []byte("[sandbox]\nname = \"p\"\ndockerfile = \"env/Dockerfile\"\n[resources]\nmemory_mb = 128\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "env/Dockerfile"), []byte("FROM scratch\nARG WHO=nobody\nADD busybox /bin/sh\nADD said /said\nRUN [\"/bin/sh\", \"-c\", \"echo $WHO >/who\"]\nCMD [\"/bin/sh\", \"-c\", \"cat /said /who\"]\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "busybox"), []byte(busybox(t)), 0o755),
		os.WriteFile(filepath.Join(dir, "said"), []byte("one\n"), 0o644),
		os.WriteFile(filepath.Join(dir, ".dockerignore"), []byte("notes\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The image of a project's Dockerfile is built when the user agrees, once for the same content, and not without his word.
func TestProjectDockerfile(t *testing.T) {
	h := newImageHome(t)
	dir := dockerProject(t)
	// A docker that builds no image, but has one, and writes down what it was asked for.
	bin, saved := t.TempDir(), save(t, "test.invalid/fake:1", imagetest.Image(t, runtime.GOARCH, v1.Config{Cmd: []string{"sh", "-c", "echo built"}}, userland(t)))
	log := filepath.Join(bin, "log")
	script := "#!/bin/sh\necho \"$*\" >>" + log + "\ncase $1 in build) echo sha256:1 >$5;; save) cat " + saved + " >$3;; esac\n"
	if err := os.WriteFile(filepath.Join(bin, "docker"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	inProject := func(args ...string) *exec.Cmd {
		cmd := h.command(args...)
		cmd.Dir = dir
		cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"))
		return cmd
	}
	builds := func() int {
		data, _ := os.ReadFile(log)
		return strings.Count(string(data), "build --platform")
	}
	made := func(want int, args ...string) {
		t.Helper()
		r := h.wait(inProject(append([]string{"create"}, args...)...))
		if r.code != 0 || builds() != want {
			t.Fatalf("create %q: exit code %d after %d builds, want %d\n%s", args, r.code, builds(), want, r.stderr)
		}
		h.ok("rm", "p")
	}
	refused := func(says string, args ...string) {
		t.Helper()
		before := builds()
		if r := h.wait(inProject(args...)); r.code != 125 || !strings.Contains(r.stderr, says) || builds() != before {
			t.Errorf("%q: exit code %d after %d more builds, want 125 and %q:\n%s", args, r.code, builds()-before, says, r.stderr)
		}
	}
	put := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	refused("nobody has agreed", "create")
	refused("--pull is for images of registries", "create", "--build", "--pull", "always")
	made(1, "--build")
	if r := h.wait(inProject("run")); r.stdout != "built\n" {
		t.Errorf("run: %+v", r)
	}
	put("notes", "what the build does not see")
	made(1)
	put("said", "two\n")
	refused("allow_projects = ", "create")
	put("said", "one\n")
	made(1)
	made(2, "--build")
	refused("nobody has agreed", "run", "--build-arg", "WHO=me")

	// The user's own configuration agrees for good.
	config := filepath.Join(h.dir, "config.toml")
	if err := os.WriteFile(config, []byte("[build]\nallow_projects = '"+filepath.Dir(dir)+"'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	made(3, "--build-arg", "WHO=me")
	made(4)
	put("env/Dockerfile", "FROM scratch\n")
	made(5)
	if data, _ := os.ReadFile(log); !strings.Contains(string(data), "--build-arg WHO=me") || strings.Contains(string(data), dir) {
		t.Errorf("docker was asked for\n%s", data)
	}
	var images []struct{ Name string }
	if err := json.Unmarshal([]byte(h.ok("image", "ls", "--json")), &images); err != nil || len(images) != 1 || !strings.HasPrefix(images[0].Name, "my-project-") {
		t.Errorf("images: %+v, %v", images, err)
	}
	h.fails(125, []string{"no Dockerfile to build"}, "create", "x", "--build")
}

// The same with docker itself.
func TestProjectDockerfileWithDocker(t *testing.T) {
	if exec.Command("docker", "info").Run() != nil {
		t.Skip("docker is not there")
	}
	h := newImageHome(t)
	dir := dockerProject(t)
	for _, step := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "--build"}, "one\nnobody\n"},
		{[]string{"run"}, "one\nnobody\n"},
		{[]string{"run", "--build", "--build-arg", "WHO=somebody"}, "one\nsomebody\n"},
	} {
		cmd := h.command(step.args...)
		cmd.Dir = dir
		if r := h.wait(cmd); r.code != 0 || r.stdout != step.want {
			t.Errorf("%q: exit code %d, %q, want %q\n%s", step.args, r.code, r.stdout, step.want, r.stderr)
		}
	}
	h.ok("image", "build", "-t", "mine", "--builder", "docker", "--build-arg", "WHO=else", "-f", filepath.Join(dir, "env/Dockerfile"), dir)
	if got := h.ok("run", "--image", "mine", "--memory", "128M"); got != "one\nelse\n" {
		t.Errorf("image build -t: %q", got)
	}
	if got := h.ok("image", "inspect", "mine"); !strings.Contains(got, filepath.Join(dir, "env/Dockerfile")+" with docker\n") {
		t.Errorf("inspect does not tell what it was made from:\n%s", got)
	}
}
