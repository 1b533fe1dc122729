package bulk

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/transport/pieces"
)

func disk(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestBehind takes no place that is in the file system, or may be.
func TestBehind(t *testing.T) {
	for name, test := range map[string]struct {
		magic  uint16
		shift  uint32
		blocks uint64
		fine   bool
	}{
		"just before": {0xef53, 2, 16 << 8, true},
		"a block in":  {0xef53, 2, 16<<8 + 1, false},
		"huge":        {0xef53, 2, 1 << 40, false},
		"no ext4":     {0, 2, 1, false},
		"odd blocks":  {0xef53, 60, 1, false},
	} {
		f := disk(t, 32<<20)
		sb := make([]byte, 1024)
		binary.LittleEndian.PutUint16(sb[0x38:], test.magic)
		binary.LittleEndian.PutUint32(sb[0x18:], test.shift)
		binary.LittleEndian.PutUint32(sb[0x4:], uint32(test.blocks))
		binary.LittleEndian.PutUint32(sb[0x150:], uint32(test.blocks>>32))
		if _, err := f.WriteAt(sb, 1024); err != nil {
			t.Fatal(err)
		}
		if err := behind(f, 16<<20); (err == nil) != test.fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRegion reads and writes pieces of all lengths in all ways, as if the other end did the same.
func TestRegion(t *testing.T) {
	f := disk(t, 16<<20)
	d := New(func() int { return -1 })
	memory, err := unix.Mmap(-1, 0, 2*pieces.SlotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	const offset = 8 << 20
	d.taken[offset] = true
	r := &Region{disk: d, offset: offset, f: f, memory: memory, buf: memory[pieces.SlotSize:], cached: -1}
	random := rand.NewChaCha8([32]byte{})
	for i, size := range []int{1, 511, 512, 513, 100_000, pieces.SlotSize - 1, pieces.SlotSize} {
		for _, shift := range []int{0, 1} { // memory that is aligned, and that is not
			slot := i % pieces.NumSlots
			data := make([]byte, size)
			_, _ = random.Read(data)
			p := r.Memory()[:size]
			if shift > 0 {
				p = make([]byte, size+shift)[shift:]
			}
			copy(p, data)
			if err := r.Put(slot, p); err != nil {
				t.Fatal(err)
			}
			clear(p)
			for at := 0; at < size; {
				want := p[at:]
				if at == 0 {
					want = p[:min(size, 700)] // a header, say
				}
				n, err := r.Get(slot, at, size, want)
				if err != nil || n < 1 || n > len(want) {
					t.Fatalf("%d bytes at %d of %d: %v", n, at, size, err)
				}
				at += n
			}
			if !bytes.Equal(p, data) {
				t.Errorf("%d bytes came back changed", size)
			}
		}
	}
	r.Release()
	if d.taken[offset] {
		t.Error("the region is not free again")
	}
	for _, bad := range []uint64{0, 1, 1 << 63} {
		if _, err := d.Take(bad); err == nil {
			t.Errorf("there is a region at %d", bad)
		}
	}
}
