package image

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/agentkernel/agentkernel/internal/image/imagetest"
	"github.com/agentkernel/agentkernel/internal/image/layer"
	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func pullOptions(t *testing.T) PullOptions {
	return PullOptions{Arch: sandbox.X8664, Registries: &oci.Registries{Cache: oci.Cache{Dir: t.TempDir()}, Keychain: authn.NewMultiKeychain()}}
}

func newStore(t *testing.T) *Store { return Open(filepath.Join(t.TempDir(), "images")) }

var testConfig = v1.Config{
	Env: []string{"PATH=/bin", "A=b=c", "broken"}, WorkingDir: "srv/app", User: "1000:1000", Entrypoint: []string{"/bin/x"}, Cmd: []string{"y"},
	StopSignal: "SIGINT", ExposedPorts: map[string]struct{}{"80/tcp": {}}, Volumes: map[string]struct{}{"/data": {}},
}

func testImage(t *testing.T) v1.Image {
	return imagetest.Image(t, "amd64", testConfig,
		imagetest.Layer(t, imagetest.Dir("bin", 0o755), imagetest.File("bin/x", strings.Repeat("program ", 2000), 0o755), imagetest.File("gone", "x", 0o600)),
		imagetest.Layer(t, imagetest.HardLink("bin/y", "bin/x", 0o755), imagetest.File(".wh.gone", "", 0o644)))
}

func TestPullIntoStore(t *testing.T) {
	ctx := context.Background()
	reg := imagetest.NewRegistry(t)
	ref := reg.Push("team/app:1", testImage(t))
	s, o := newStore(t), pullOptions(t)
	m, pulled, err := s.Pull(ctx, ref, o)
	if err != nil || !pulled {
		t.Fatal(err)
	}
	if m.Name != ref || m.FS != Erofs || m.Origin.Digest == "" || m.Origin.Reference != ref || len(m.Origin.Layers) != 2 || m.Origin.Layers[0].Size == 0 {
		t.Errorf("%+v", m)
	}
	want := &sandbox.ImageConfig{
		Env: []string{"PATH=/bin", "A=b=c"}, WorkingDir: "/srv/app", User: "1000:1000", Entrypoint: []string{"/bin/x"}, Cmd: []string{"y"},
		StopSignal: "SIGINT", ExposedPorts: []string{"80/tcp"}, Volumes: []string{"/data"},
	}
	img, err := s.Resolve(ctx, ref, sandbox.X8664)
	if err != nil || !cmp.Equal(img.Config, want) {
		t.Errorf("%v %s", err, cmp.Diff(want, img.Config))
	}
	if _, err := s.Verify(ctx, ref, sandbox.X8664); err != nil {
		t.Error(err)
	}
	before := reg.Gets("")
	if again, pulled, err := s.Pull(ctx, ref, o); err != nil || pulled || again.Digest != m.Digest || reg.Gets("") != before {
		t.Errorf("again: pulled %v, %v, %d requests", pulled, err, reg.Gets("")-before)
	}
	o.Always = true
	if again, pulled, err := s.Pull(ctx, ref, o); err != nil || pulled || again.Digest != m.Digest {
		t.Errorf("always: pulled %v, %v", pulled, err)
	}
	newer, err := mutate.AppendLayers(testImage(t), imagetest.Layer(t, imagetest.File("new", "x", 0o644)))
	if err != nil {
		t.Fatal(err)
	}
	reg.Push("team/app:1", newer)
	if again, pulled, err := s.Pull(ctx, ref, o); err != nil || !pulled || again.Digest == m.Digest {
		t.Errorf("always, after the name got another image: pulled %v, %v", pulled, err)
	}
	// The same image in another store has the same bytes; under another name it is not even unpacked.
	o = pullOptions(t)
	o.Name = "mine"
	s2 := newStore(t)
	old := reg.Push("team/app:old", testImage(t))
	mine, _, err := s2.Pull(ctx, old, o)
	if err != nil || mine.Digest != m.Digest || mine.Name != "mine" {
		t.Errorf("%+v, %v", mine, err)
	}
	o.Name = ""
	o.Tell = func(e oci.Event) { t.Errorf("a layer was unpacked again: %+v", e) }
	if other, pulled, err := s2.Pull(ctx, old, o); err != nil || !pulled || other.Digest != m.Digest || other.Name != old {
		t.Errorf("%+v, %v", other, err)
	}
	leftovers(t, s)
}

// leftovers fails when temporary files are there.
func leftovers(t *testing.T, s *Store) {
	t.Helper()
	for _, dir := range []string{s.blobDir(), filepath.Join(s.root, "manifests/x86_64")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				t.Errorf("left over: %s", e.Name())
			}
		}
	}
}

func TestTwoPullsDownloadOnce(t *testing.T) {
	reg := imagetest.NewRegistry(t)
	img := testImage(t)
	ref := reg.Push("x:1", img)
	s, o := newStore(t), pullOptions(t)
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			if _, _, err := s.Pull(context.Background(), ref, o); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	layers, _ := img.Layers()
	// One image may have the same layer several times.
	twice := imagetest.Image(t, "amd64", v1.Config{}, imagetest.Layer(t, imagetest.File("a", "b", 0o644)), imagetest.Layer(t, imagetest.File("a", "b", 0o644)))
	if _, _, err := s.Pull(context.Background(), reg.Push("twice:1", twice), o); err != nil {
		t.Error(err)
	}
	again, _ := twice.Layers()
	for _, l := range append(layers, again[0]) {
		digest, _ := l.Digest()
		if n := reg.Gets(digest.String()); n != 1 {
			t.Errorf("layer %s was downloaded %d times", digest, n)
		}
	}
}

func expectSquashfsRoot(t *testing.T, path, mode, when string) {
	t.Helper()
	cmd := exec.Command("unsquashfs", "-lln", path)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	list, err := cmd.Output()
	if first, _, _ := strings.Cut(string(list), "\n"); err != nil || !strings.HasPrefix(first, mode+" ") || !strings.Contains(first, when) {
		t.Errorf("the root directory is %q, %v", first, err)
	}
}

func TestFormats(t *testing.T) {
	ctx := context.Background()
	reg := imagetest.NewRegistry(t)
	ref := reg.Push("x:1", testImage(t))
	for _, format := range Formats {
		if _, err := exec.LookPath("sqfstar"); err != nil && format == Squashfs {
			t.Log("squashfs is not tested: sqfstar is not installed")
			continue
		}
		var digests []string
		for range 2 {
			s, o := newStore(t), pullOptions(t)
			o.Format, o.Name = format, "x"
			m, _, err := s.Pull(ctx, ref, o)
			if err != nil || m.FS != format {
				t.Fatalf("%s: %+v, %v", format, m, err)
			}
			digests = append(digests, m.Digest)
			leftovers(t, s)
			if format == Squashfs {
				expectSquashfsRoot(t, filepath.Join(s.blobDir(), strings.TrimPrefix(m.Digest, "sha256:")), "drwxr-xr-x 0/0", "2023-11-14 22:13") // that of the files, and not that of now
			}
		}
		if digests[0] != digests[1] {
			t.Errorf("%s: the same image gave different bytes", format)
		}
	}
	o := pullOptions(t)
	o.Format = "ntfs"
	_, _, err := newStore(t).Pull(ctx, ref, o)
	wantKind(t, "ntfs", err, sandbox.Invalid, "ntfs")
	t.Setenv("PATH", t.TempDir())
	o.Format = Squashfs
	_, _, err = newStore(t).Pull(ctx, ref, o)
	wantKind(t, "no sqfstar", err, sandbox.Unavailable, "squashfs-tools")
}

func TestLoad(t *testing.T) {
	ctx := context.Background()
	img := testImage(t)
	dir := t.TempDir()
	docker := filepath.Join(dir, "docker.tar")
	tag, err := name.NewTag("team/app:1")
	if err == nil {
		err = tarball.WriteToFile(docker, tag, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "layout")
	p, err := layout.Write(tree, imagetest.Index(t, map[string]v1.Image{"amd64": img, "arm64": imagetest.Image(t, "arm64", v1.Config{})}))
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "layout.tar.gz")
	if out, err := exec.Command("tar", "-czf", archive, "-C", string(p), ".").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	data, err := os.ReadFile(docker)
	if err != nil {
		t.Fatal(err)
	}
	var digest string
	for what, c := range map[string]struct {
		path, name string
		stdin      []byte
		want       string
	}{
		"docker save":          {docker, "", nil, "team/app:1"},
		"docker save on stdin": {"-", "", data, "team/app:1"},
		"layout":               {tree, "mine", nil, "mine"},
		"layout in an archive": {archive, "mine", nil, "mine"},
	} {
		s, o := newStore(t), pullOptions(t)
		o.Name, o.Source = c.name, "a test"
		list, err := s.Load(ctx, c.path, bytes.NewReader(c.stdin), o)
		if err != nil || len(list) != 1 || list[0].Name != c.want || list[0].Source != "a test" {
			t.Errorf("%s: %+v, %v", what, list, err)
			continue
		}
		if digest == "" {
			digest = list[0].Digest
		}
		if list[0].Digest != digest {
			t.Errorf("%s: other bytes", what)
		}
		leftovers(t, s)
	}
	for what, c := range map[string]struct {
		path string
		data []byte
		says string
	}{
		"no file":      {filepath.Join(dir, "none"), nil, "there is no file"},
		"no archive":   {"-", bytes.Repeat([]byte("text"), 1000), "cannot be loaded"},
		"other things": {"-", imagetest.Archive(t, imagetest.File("a", "b", 0o644)), "neither manifest.json nor index.json"},
		"cut off":      {"-", data[:len(data)-3000], ""},
		"no name":      {tree, nil, "has no name"},
		"leads out":    {"-", imagetest.Archive(t, imagetest.File("manifest.json", `[{"Config":"../../etc/passwd","Layers":[]}]`, 0o644)), "passwd"},
	} {
		s := newStore(t)
		if _, err := s.Load(ctx, c.path, bytes.NewReader(c.data), pullOptions(t)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
		leftovers(t, s)
	}
}

func TestPutTar(t *testing.T) {
	s := newStore(t)
	data := imagetest.Archive(t, imagetest.Dir("etc", 0o755), imagetest.File("etc/x", "y", 0o600))
	m, err := s.PutTar(context.Background(), bytes.NewReader(data), layer.Limits{}, PutOptions{Name: "mine", Arch: sandbox.X8664, BuildTime: buildTime, Config: &sandbox.ImageConfig{User: "agent"}})
	if err != nil {
		t.Fatal(err)
	}
	if img, err := s.Resolve(context.Background(), "mine", sandbox.X8664); err != nil || img.Digest != m.Digest || img.Config.User != "agent" {
		t.Errorf("%+v, %v", img, err)
	}
}

// An image that is not what it should be leaves nothing behind.
func TestHostileImages(t *testing.T) {
	ctx := context.Background()
	reg := imagetest.NewRegistry(t)
	for what, c := range map[string]struct {
		img  v1.Image
		says string
	}{
		"leads out":        {imagetest.Image(t, "amd64", v1.Config{}, imagetest.Layer(t, imagetest.File("../../x", "y", 0o644))), "leads out of the image"},
		"bomb":             {imagetest.Image(t, "amd64", v1.Config{}, imagetest.Layer(t, imagetest.File("x", strings.Repeat("\x00", 3<<20), 0o644))), "larger than 1MiB"},
		"long environment": {imagetest.Image(t, "amd64", v1.Config{Env: []string{"A=" + strings.Repeat("x", 300_000)}}), "configuration"},
		"no such os":       {windows(t), "windows"},
	} {
		s, o := newStore(t), pullOptions(t)
		o.MaxBytes = 1 << 20
		_, _, err := s.Pull(ctx, reg.Push("x", c.img), o)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
		leftovers(t, s)
		if list, _, _ := s.List(); len(list) != 0 {
			t.Errorf("%s: %v", what, list)
		}
	}
}

// A layer of 100,000 entries, and one that takes half of them away again.
func TestManyEntries(t *testing.T) {
	var entries, gone []imagetest.Entry
	for d := range 1000 {
		dir := fmt.Sprintf("usr/lib/%03d", d)
		entries = append(entries, imagetest.Dir(dir, 0o755))
		for f := range 99 {
			entries = append(entries, imagetest.File(fmt.Sprintf("%s/%02d", dir, f), fmt.Sprint(d, f), 0o644))
		}
		if d%2 == 1 {
			gone = append(gone, imagetest.File(fmt.Sprintf("usr/lib/.wh.%03d", d), "", 0o644))
		}
	}
	reg, s := imagetest.NewRegistry(t), newStore(t)
	ref := reg.Push("many:1", imagetest.Image(t, "amd64", v1.Config{}, imagetest.Layer(t, entries...), imagetest.Layer(t, gone...)))
	began := time.Now()
	if _, _, err := s.Pull(context.Background(), ref, pullOptions(t)); err != nil {
		t.Fatal(err)
	}
	t.Logf("pulled %d entries in %v", len(entries)+len(gone), time.Since(began))
	img, err := s.Resolve(context.Background(), ref, sandbox.X8664)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = fs.WalkDir(files, "usr/lib", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if text, readErr := fs.ReadFile(files, "usr/lib/998/42"); n != 500*99 || err != nil || readErr != nil || string(text) != "998 42" {
		t.Errorf("%d files, %v; %q, %v", n, err, text, readErr)
	}
}

func windows(t *testing.T) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(imagetest.Image(t, "amd64", v1.Config{}), &v1.ConfigFile{OS: "windows", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestNamesOfImages(t *testing.T) {
	for ref, want := range map[string][]string{
		"base":                     {"base", "base:latest"},
		"alpine:3.20":              {"alpine:3.20"},
		"docker.io/library/alpine": {"alpine:latest"},
		"ghcr.io/owner/name:tag":   {"ghcr.io/owner/name:tag"},
		strings.Repeat("a", 65):    {strings.Repeat("a", 65) + ":latest"},
	} {
		if got, err := namesOf(ref); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"base", "./x", "/x", "a b"} {
		if Pullable(ref) {
			t.Errorf("%q can be pulled", ref)
		}
	}
}
