package bulk

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/internal/transport/pieces"
)

const diskSize = 64 << 20

func newDisk(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte("file system"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestArea(t *testing.T) {
	path := newDisk(t, diskSize+Size)
	a := New(path, diskSize)
	var all []*Region
	seen := map[int64]bool{}
	for r := a.Take(); r != nil; r = a.Take() {
		if seen[r.Offset] || r.Offset < diskSize || r.Offset+regionSize > diskSize+Size {
			t.Fatalf("a region at %d", r.Offset)
		}
		seen[r.Offset] = true
		all = append(all, r)
	}
	if len(all) != regions {
		t.Fatalf("%d regions", len(all))
	}
	data := bytes.Repeat([]byte("data"), pieces.SlotSize/4)
	for _, r := range all {
		for i := range pieces.NumSlots {
			if err := r.Put(i, data); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, 100)
		if n, err := r.Get(pieces.NumSlots-1, pieces.SlotSize-40, pieces.SlotSize, got); n != 40 || err != nil || !bytes.Equal(got[:n], data[:n]) {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	for _, r := range all {
		r.Release()
		r.Release()
		if err := r.Put(0, data); err == nil {
			t.Error("a released region is written to")
		}
		if _, err := r.Get(0, 0, 1, data); err == nil {
			t.Error("a released region is read")
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != diskSize+Size {
		t.Errorf("the disk has %d bytes, %v", info.Size(), err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 1<<20 {
		t.Errorf("%d KiB are kept of the host's disk", used>>10)
	}
	if r := a.Take(); r == nil {
		t.Error("no region is free again")
	} else {
		r.Release()
	}
}

func TestNoArea(t *testing.T) {
	if New(newDisk(t, diskSize), diskSize).Take() != nil {
		t.Error("there is an area in a disk without one")
	}
	if New(filepath.Join(t.TempDir(), "none"), 0).Take() != nil {
		t.Error("there is an area in no disk")
	}
}
