package vm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// randomFile makes a file of this size and returns its checksum.
func randomFile(t *testing.T, path string, size int, seed byte) string {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// behindUpper returns how many bytes the file of a sandbox's upper disk has behind the file system, and whether any are on the host's
// disk.
func behindUpper(t *testing.T, h *home, name string) (size int64, kept bool) {
	t.Helper()
	sb := h.inspect(name)
	f, err := os.Open(filepath.Join(h.dir, "state", "sandboxes", sb.Id, "upper.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	end := int64(sb.DiskMib) << 20
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	_, err = unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
	if err != nil && !errors.Is(err, unix.ENXIO) {
		t.Fatal(err)
	}
	return info.Size() - end, err == nil
}

// TestLargeCopies has more copies at a time than there are regions behind the upper disk, some of which are cut short.
func TestLargeCopies(t *testing.T) {
	h := newHome(t)
	h.started("a")
	dir := t.TempDir()
	const copies = 6
	var sums [copies]string
	for i := range copies {
		sums[i] = randomFile(t, filepath.Join(dir, fmt.Sprint(i)), 5<<20+i*777, byte(i))
	}
	randomFile(t, filepath.Join(dir, "cut"), 64<<20, 99)
	each := func(do func(i int)) {
		var all sync.WaitGroup
		for i := range copies {
			all.Go(func() { do(i) })
		}
		all.Wait()
	}
	cut := func(args ...string) {
		cmd := h.command(args...)
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return
		}
		_ = cmd.Process.Signal(syscall.SIGINT) // wherever it is
		_ = cmd.Wait()
	}
	for range 2 { // the second time what is there is replaced
		each(func(i int) {
			cut("cp", filepath.Join(dir, "cut"), fmt.Sprintf("a:/root/cut%d", i))
			if r := h.run("cp", filepath.Join(dir, fmt.Sprint(i)), fmt.Sprintf("a:/root/%d", i)); r.code != 0 {
				t.Errorf("%+v", r)
			}
		})
		each(func(i int) {
			back := filepath.Join(dir, fmt.Sprintf("back%d", i))
			cut("cp", fmt.Sprintf("a:/root/%d", i), back+"cut")
			if r := h.run("cp", fmt.Sprintf("a:/root/%d", i), back); r.code != 0 {
				t.Errorf("%+v", r)
				return
			}
			data, err := os.ReadFile(back)
			if got := fmt.Sprintf("%x", sha256.Sum256(data)); err != nil || got != sums[i] {
				t.Errorf("file %d of %d bytes came back changed, %v", i, len(data), err)
			}
		})
	}
	want := ""
	for i := range copies {
		want += fmt.Sprintf("%s  /root/%d\n", sums[i], i)
	}
	if got := h.sh("a", "sha256sum /root/[0-9]"); got+"\n" != want {
		t.Errorf("in the guest: %s", got)
	}
	if size, kept := behindUpper(t, h, "a"); size != 16<<20 || kept {
		t.Errorf("%d bytes are behind the file system, of which the host's disk keeps some: %v", size, kept)
	}

	// Where root in the sandbox has taken the disk's node away, and with a file of no page cache's own: all goes as before.
	h.sh("a", "rm /dev/vdb")
	h.ok("cp", filepath.Join(dir, "1"), "a:/root/1")
	h.ok("cp", filepath.Join(dir, "2"), "a:/tmp/2")
	if got := h.sh("a", "sha256sum /root/1 /tmp/2"); got != sums[1]+"  /root/1\n"+sums[2]+"  /tmp/2" {
		t.Errorf("without a node: %s", got)
	}
}

// TestStopDuringACopy stops the sandbox while bytes are under way behind its disk; it starts again, and the disk is whole.
func TestStopDuringACopy(t *testing.T) {
	h := newHome(t)
	h.started("a")
	body := &endlessBody{begun: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		_, err := h.api().WriteFile(t.Context(), "a", "/root/f", client.WriteOptions{}, body)
		ended <- err
	}()
	<-body.begun
	h.ok("stop", "a")
	if err := <-ended; err == nil {
		t.Error("the copy has ended well")
	}
	h.ok("start", "a")
	if got := h.sh("a", "ls /root; dmesg | grep -ci 'ext4.*error' || true"); got != "0" {
		t.Errorf("afterwards: %q", got)
	}
	if _, kept := behindUpper(t, h, "a"); kept {
		t.Error("the host's disk keeps what was under way")
	}
}

// endlessBody says when 8 MiB of it are read.
type endlessBody struct {
	read  int
	once  sync.Once
	begun chan struct{}
}

func (b *endlessBody) Read(p []byte) (int, error) {
	if b.read += len(p); b.read > 8<<20 {
		b.once.Do(func() { close(b.begun) })
	}
	return len(p), nil
}
