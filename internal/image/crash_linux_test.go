package image

import (
	"context"
	"debug/elf"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/image/imagetest"
	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// The child of TestCrashes: what it is to do, with what, where, and with which cache.
const crashVariable = "AGENTKERNEL_TEST_CRASH"

// TestCrashChild is no test but the process that TestCrashes kills.
func TestCrashChild(t *testing.T) {
	args := strings.Split(os.Getenv(crashVariable), "\n")
	if len(args) != 4 {
		t.Skip("for TestCrashes")
	}
	ctx, s, from := t.Context(), Open(filepath.Join(args[2], "images")), args[1]
	o := PullOptions{Arch: sandbox.X8664, Name: "victim", Registries: &oci.Registries{Cache: oci.Cache{Dir: filepath.Join(args[2], "layers")}, Keychain: authn.NewMultiKeychain()}}
	var err error
	switch args[0] {
	case "import":
		_, err = s.Import(ctx, from, "victim", sandbox.X8664, "a test")
	case "build":
		_, err = s.Build(ctx, "base", BuildOptions{Arch: sandbox.X8664, Busybox: from, CacheDir: args[3]})
	case "load":
		_, err = s.Load(ctx, from, nil, o)
	case "pull":
		_, _, err = s.Pull(ctx, from, o)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestCrashes kills a process that puts an image into a store, at each step that the store's directories show (inotify(7): a file
// made, written to, closed, renamed), in a store of its own. Whatever there is then has to be whole, and the same work has to
// succeed afterwards.
func TestCrashes(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	big := imagetest.Image(t, "amd64", testConfig, imagetest.Layer(t, imagetest.Dir("bin", 0o755), imagetest.File("bin/x", strings.Repeat("program ", 200_000), 0o755)), imagetest.Layer(t, imagetest.File("y", strings.Repeat("more", 100_000), 0o644)))
	archive := filepath.Join(t.TempDir(), "image.tar")
	tag, err := name.NewTag("test.invalid/victim:1")
	if err == nil {
		err = tarball.WriteToFile(archive, tag, big)
	}
	if err != nil {
		t.Fatal(err)
	}
	cache := compiledBefore(t, sandbox.X8664)
	for what, from := range map[string]string{
		"import": imageFile(t, ext4Head()),
		"build":  write(t, fakeBusybox(elf.EM_X86_64, someApplets...)),
		"load":   archive,
		"pull":   imagetest.NewRegistry(t).Push("victim:1", big),
	} {
		t.Run(what, func(t *testing.T) {
			for step, late := 1, 0; ; {
				dir := t.TempDir()
				s := Open(filepath.Join(dir, "images"))
				if err := errors.Join(os.MkdirAll(s.blobDir(), 0o700), os.MkdirAll(filepath.Dir(s.manifestPath("victim", sandbox.X8664)), 0o700), os.MkdirAll(filepath.Join(dir, "layers"), 0o700)); err != nil {
					t.Fatal(err)
				}
				child := func() *exec.Cmd {
					cmd := exec.Command(self, "-test.run=^TestCrashChild$")
					cmd.Env = append(os.Environ(), crashVariable+"="+strings.Join([]string{what, from, dir, cache}, "\n"))
					return cmd
				}
				killed, seen := killAt(t, child(), step, s.blobDir(), filepath.Dir(s.manifestPath("victim", sandbox.X8664)), filepath.Join(dir, "layers"))
				expectIntact(t, s)
				if out, err := child().CombinedOutput(); err != nil {
					t.Fatalf("after a crash at step %d: %v\n%s", step, err, out)
				}
				if _, err := s.Verify(t.Context(), "victim", sandbox.X8664); err != nil && what != "build" {
					t.Errorf("after a crash at step %d: %v", step, err)
				}
				expectCleanAfterPrune(t, s)
				switch {
				case killed:
					step, late = step+1+step/6, 0
				case seen >= step && late < 100: // it was faster than the kill
					late++
				case seen >= step && step > 5:
					step, late = step+1+step/6, 0
				case step > 5:
					return
				default:
					t.Fatalf("%d steps were seen, and it was not killed at step %d", seen, step)
				}
			}
		})
	}
}

// killAt runs a command and kills it when so many things have happened in directories. It reports whether that came to be, and
// how many were seen: as many as that without a kill when the command was faster.
func killAt(t *testing.T, cmd *exec.Cmd, step int, dirs ...string) (killed bool, seen int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_CLOSE_WRITE|unix.IN_MOVED_FROM|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for seen < step {
			n, err := events.Read(buf)
			if err != nil {
				return
			}
			seen += count(buf[:n])
		}
		_ = cmd.Process.Kill()
	}()
	err = cmd.Wait()
	_ = events.SetReadDeadline(time.Now())
	<-done
	for buf := make([]byte, 64<<10); ; { // what has happened by now is there to be read
		n, err := unix.Read(fd, buf)
		if err != nil {
			break
		}
		seen += count(buf[:n])
	}
	var exit *exec.ExitError
	return errors.As(err, &exit), seen
}

// count counts inotify events.
func count(b []byte) (n int) {
	for ; len(b) > 0; n++ {
		b = b[unix.SizeofInotifyEvent+int(le32(b[12:])):]
	}
	return n
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// expectIntact checks that what has a name can be used, and that what has the name of a digest has it.
func expectIntact(t *testing.T, s *Store) {
	t.Helper()
	images, problems, err := s.List()
	if err != nil || len(problems) > 0 {
		t.Errorf("%q, %v", problems, err)
	}
	for _, m := range images {
		if _, err := s.Verify(t.Context(), m.Name, m.Arch); err != nil {
			t.Error(err)
		}
	}
	entries, err := os.ReadDir(s.blobDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := hexOf("sha256:" + e.Name()); err != nil {
			continue // temporary
		}
		if digest, err := hashFile(context.Background(), filepath.Join(s.blobDir(), e.Name())); err != nil || digest != "sha256:"+e.Name() {
			t.Errorf("%s has the digest %s, %v", e.Name(), digest, err)
		}
	}
}

// expectCleanAfterPrune makes all temporary files old, and expects that Prune removes them, and nothing that has a name.
func expectCleanAfterPrune(t *testing.T, s *Store) {
	t.Helper()
	old := time.Now().Add(-2 * pruneAge)
	err := filepath.WalkDir(s.blobDir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chtimes(path, old, old)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := s.List()
	if _, err := s.Prune(never); err != nil {
		t.Error(err)
	}
	expectIntact(t, s)
	after, _, _ := s.List()
	entries, err := os.ReadDir(s.blobDir())
	if err != nil || len(before) != 1 || len(after) != 1 || len(entries) != 1 {
		t.Errorf("%d images, %d after prune, and %d files: %v", len(before), len(after), len(entries), err)
	}
}
