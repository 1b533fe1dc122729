package vm

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/agentkernel/agentkernel/internal/image/imagetest"
)

// newImageHome is a home with the machine's kernels and an image store of its own.
func newImageHome(t *testing.T) *home {
	t.Helper()
	if *guestArch != "" && *guestArch != map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] {
		t.Skip("the images of this test are for the host's architecture")
	}
	h := &home{t: t, dir: t.TempDir()}
	if err := errors.Join(
		os.Mkdir(filepath.Join(h.dir, "data"), 0o700),
		os.Symlink(filepath.Join(hostData, "kernels"), filepath.Join(h.dir, "data", "kernels")),
		os.Symlink(filepath.Join(hostData, "cache"), filepath.Join(h.dir, "data", "cache")),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	return h
}

// busybox is the host's static one.
func busybox(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if data, err := os.ReadFile(p); err == nil {
			return string(data)
		}
	}
	t.Skip("busybox-static is not installed")
	return ""
}

// userland is a layer with a shell, and the users root and app.
func userland(t *testing.T) v1.Layer {
	entries := []imagetest.Entry{
		imagetest.Dir("bin", 0o755), imagetest.File("bin/busybox", busybox(t), 0o755), imagetest.Dir("home", 0o755), imagetest.Dir("home/app", 0o755),
		imagetest.Dir("etc", 0o755), imagetest.Dir("root", 0o700), imagetest.Dir("tmp", 0o1777),
		imagetest.File("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1001:1002::/home/app:/bin/sh\n", 0o644),
		imagetest.File("etc/group", "root:x:0:\nmore:x:2000:app\napp:x:1002:\n", 0o644),
	}
	for _, applet := range []string{"sh", "id", "echo", "pwd", "cat", "sha256sum", "stat", "ls", "find", "xargs"} {
		entries = append(entries, imagetest.HardLink("bin/"+applet, "bin/busybox", 0o755))
	}
	return imagetest.Layer(t, entries...)
}

const tellAll = `echo cwd=$(pwd) uid=$(id -u) gid=$(id -g) groups=$(id -G) home=$HOME path=$PATH a=$A args=$*`

// What an image says about how programs run in it counts as it does for docker run.
func TestImageConfig(t *testing.T) {
	layer := userland(t)
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	shell := []string{"sh", "-c", tellAll}
	line := func(cwd, ids, home, path, a, args string) string {
		return strings.TrimRight(fmt.Sprintf("cwd=%s %s home=%s path=%s a=%s args=%s", cwd, ids, home, path, a, args), " ")
	}
	root, app := "uid=0 gid=0 groups=0", "uid=1001 gid=1002 groups=1002 2000"
	for _, c := range []struct {
		what   string
		config v1.Config
		flags  []string
		args   []string
		want   string
	}{
		{"no configuration", v1.Config{}, nil, shell, line("/", root, "/root", path, "", "")},
		{"CMD", v1.Config{Cmd: shell}, nil, nil, line("/", root, "/root", path, "", "")},
		{"command in place of CMD", v1.Config{Cmd: shell}, nil, []string{"echo", "other"}, "other"},
		{"ENTRYPOINT and CMD", v1.Config{Entrypoint: append(shell, "x"), Cmd: []string{"c d", "e"}}, nil, nil, line("/", root, "/root", path, "", "c d e")},
		{"ENTRYPOINT and command", v1.Config{Entrypoint: append(shell, "x"), Cmd: []string{"c"}}, nil, []string{"f"}, line("/", root, "/root", path, "", "f")},
		{"ENTRYPOINT alone", v1.Config{Entrypoint: shell}, nil, nil, line("/", root, "/root", path, "", "")},
		{"--entrypoint drops CMD", v1.Config{Entrypoint: shell, Cmd: []string{"c"}}, []string{"--entrypoint", "echo"}, []string{"mine"}, "mine"},
		{"ENV", v1.Config{Cmd: shell, Env: []string{"A=b=c d", "PATH=/bin:/x"}}, nil, nil, line("/", root, "/root", "/bin:/x", "b=c d", "")},
		{"-e over ENV", v1.Config{Cmd: shell, Env: []string{"A=1"}}, []string{"-e", "A=2"}, nil, line("/", root, "/root", path, "2", "")},
		{"ENV HOME", v1.Config{Cmd: shell, Env: []string{"HOME=/tmp"}, User: "app"}, nil, nil, line("/", app, "/tmp", path, "", "")},
		{"WORKDIR that is missing", v1.Config{Cmd: shell, WorkingDir: "/srv/new"}, nil, nil, line("/srv/new", root, "/root", path, "", "")},
		{"-w over WORKDIR", v1.Config{Cmd: shell, WorkingDir: "/srv"}, []string{"-w", "/etc"}, nil, line("/etc", root, "/root", path, "", "")},
		{"USER by name", v1.Config{Cmd: shell, User: "app"}, nil, nil, line("/", app, "/home/app", path, "", "")},
		{"USER and group by number", v1.Config{Cmd: shell, User: "1001:2000"}, nil, nil, line("/", "uid=1001 gid=2000 groups=2000", "/home/app", path, "", "")},
		{"USER that passwd does not know", v1.Config{Cmd: shell, User: "4242"}, nil, nil, line("/", "uid=4242 gid=0 groups=0", "/", path, "", "")},
		{"-u over USER", v1.Config{Cmd: shell, User: "app"}, []string{"-u", "0"}, nil, line("/", root, "/root", path, "", "")},
	} {
		t.Run(c.what, func(t *testing.T) {
			h := newImageHome(t)
			ref := "test.invalid/config:1"
			file := save(t, ref, imagetest.Image(t, runtime.GOARCH, c.config, layer))
			h.ok("image", "load", file)
			args := append(append([]string{"run", "--image", ref, "--memory", "128M"}, c.flags...), "--")
			if got := strings.TrimSpace(h.ok(append(args, c.args...)...)); got != c.want {
				t.Errorf("agentkernel run prints\n%s, want\n%s", got, c.want)
			}
			if got, ok := dockerRun(t, file, ref, c.flags, c.args); ok && strings.TrimSpace(got) != c.want {
				t.Errorf("docker run prints\n%s, want\n%s", got, c.want)
			}
		})
	}
	t.Run("no command", func(t *testing.T) {
		h := newImageHome(t)
		h.ok("image", "load", save(t, "test.invalid/config:1", imagetest.Image(t, runtime.GOARCH, v1.Config{}, layer)))
		h.fails(125, []string{"there is no command to run", "hint:"}, "run", "--image", "test.invalid/config:1", "--memory", "128M")
	})
}

// save writes an image as docker save does.
func save(t *testing.T, ref string, img v1.Image) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	tag, err := name.NewTag(ref)
	if err == nil {
		err = tarball.WriteToFile(file, tag, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// dockerRun asks docker for its opinion, where there is one.
func dockerRun(t *testing.T, file, ref string, flags, args []string) (string, bool) {
	t.Helper()
	if exec.Command("docker", "info").Run() != nil {
		t.Log("docker does not answer: not compared with docker run")
		return "", false
	}
	if out, err := exec.Command("docker", "load", "-i", file).CombinedOutput(); err != nil {
		t.Fatalf("docker load: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "-f", ref).Run() })
	run := append(append([]string{"run", "--rm", "--network", "none"}, flags...), ref)
	out, err := exec.Command("docker", append(run, args...)...).CombinedOutput()
	if err != nil {
		t.Errorf("docker run: %v\n%s", err, out)
	}
	return string(out), true
}

// An image is pulled when it is asked for, in the form that the guest's kernel reads; then nothing is asked of the registry.
func TestPullOnDemand(t *testing.T) {
	h := newImageHome(t)
	reg := imagetest.NewRegistry(t)
	files := map[string]string{"text": strings.Repeat("all work and no play\n", 100_000), "random": "", "small": "x", "page": strings.Repeat("p", 4096)}
	random := make([]byte, 700_000)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(random)
	files["random"] = string(random)
	entries := []imagetest.Entry{
		imagetest.Dir("data", 0o755), imagetest.Symlink("data/link", "text"), imagetest.File("data/gone", "x", 0o600),
		{Header: tar.Header{Name: "data/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Name: "data/suid", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 1001, Gid: 70000, Size: 1}, Body: "s"},
	}
	want := map[string]string{}
	for n, body := range files {
		entries = append(entries, imagetest.File("data/"+n, body, 0o644))
		want["/data/"+n] = fmt.Sprintf("%x", sha256.Sum256([]byte(body)))
	}
	img := imagetest.Image(t, runtime.GOARCH, v1.Config{Cmd: []string{"true"}}, userland(t), imagetest.Layer(t, entries...),
		imagetest.Layer(t, imagetest.File("data/.wh.gone", "", 0o644), imagetest.HardLink("data/hard", "data/text", 0o644)))
	ref := reg.Push("team/app:1", imagetest.Index(t, map[string]v1.Image{runtime.GOARCH: img, "s390x": imagetest.Image(t, "s390x", v1.Config{})}))

	h.fails(125, []string{"there is no image", "agentkernel image pull"}, "create", "early", "--image", ref, "--pull", "never")
	for _, format := range []string{"erofs", "ext4", "squashfs"} {
		t.Run(format, func(t *testing.T) {
			image := ref
			if format != "erofs" {
				if _, err := exec.LookPath("sqfstar"); err != nil && format == "squashfs" {
					t.Skip("squashfs-tools is not installed")
				}
				image = "as-" + format
				h.ok("image", "pull", ref, "--format", format, "--name", image)
			}
			sb := "a-" + format
			h.started(sb, "--image", image)
			sums := map[string]string{}
			for l := range strings.Lines(h.sh(sb, "find /data -type f ! -name hard ! -name suid | xargs sha256sum")) {
				sum, file, _ := strings.Cut(strings.TrimSpace(l), "  ")
				sums[file] = sum
			}
			if fmt.Sprint(sums) != fmt.Sprint(want) {
				t.Errorf("the guest reads\n%v, want\n%v", sums, want)
			}
			// Format of busybox's stat: mode, owner, links, device.
			if got := h.sh(sb, "cd /data; stat -c '%n %f %u:%g %h %t:%T' null suid hard text; stat -c %N link; ls"); got != strings.TrimSpace(`
null 21b6 0:0 1 1:3
suid 89ed 1001:70000 1 0:0
hard 81a4 0:0 2 0:0
text 81a4 0:0 2 0:0
'link' -> 'text'
hard
link
null
page
random
small
suid
text`) {
				t.Errorf("the guest sees\n%s", got)
			}
		})
	}
	before := reg.Gets("")
	h.ok("create", "second", "--image", ref)
	if n := reg.Gets("") - before; n != 0 {
		t.Errorf("%d requests for an image that is there", n)
	}
	reg.Close()
	h.ok("create", "third", "--image", ref)
	h.fails(125, []string{"cannot be reached"}, "create", "fourth", "--image", ref, "--pull", "always")

	var sb []struct {
		ImageConfig struct{ Cmd []string } `json:"image_config"`
	}
	if err := json.Unmarshal([]byte(h.ok("inspect", "--json", "second")), &sb); err != nil || len(sb[0].ImageConfig.Cmd) != 1 {
		t.Errorf("inspect: %+v, %v", sb, err)
	}
}

// An image needs no shell, and nothing else but the program that is run.
func TestImageOfOneProgram(t *testing.T) {
	h := newImageHome(t)
	img := imagetest.Image(t, runtime.GOARCH, v1.Config{Entrypoint: []string{"/echo"}}, imagetest.Layer(t, imagetest.File("echo", busybox(t), 0o755)))
	data, err := os.ReadFile(save(t, "test.invalid/one:1", img))
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.command("image", "load", "--name", "one", "-")
	cmd.Stdin = io.Reader(bytes.NewReader(data))
	if r := h.wait(cmd); r.code != 0 {
		t.Fatal(r.stderr)
	}
	if got := h.ok("run", "--image", "one", "--memory", "128M", "--", "hello"); got != "hello\n" {
		t.Errorf("%q", got)
	}
	h.started("one", "--image", "one")
	if got := h.ok("exec", "one", "/echo", "again"); got != "again\n" {
		t.Errorf("%q", got)
	}
	h.fails(127, []string{"sh"}, "exec", "one", "sh")
}
