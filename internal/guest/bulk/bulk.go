// Package bulk is the guest's end of the area behind the file system of the upper disk, by which large pieces pass between
// host and guest: see the host's end, package bulk of transport.
//
// All is read and written past the page cache (O_DIRECT): the VMM moves the bytes, and what the other side wrote is seen.
package bulk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/transport/pieces"
)

// sector is what positions, lengths and addresses are multiples of: the logical block size of a virtio-blk disk.
const sector = 512

// Disk is the upper disk.
type Disk struct {
	upper func() int // descriptor of a directory on it

	mu    sync.Mutex
	taken map[uint64]bool // offsets of regions
}

// New returns the disk that the file system is on which upper, once it is mounted, returns a descriptor of a directory of.
func New(upper func() int) *Disk { return &Disk{upper: upper, taken: map[uint64]bool{}} }

// ErrBusy is returned by Take while an earlier operation, whose connection is gone, still reads or writes there.
var ErrBusy = errors.New("the region is in use")

// Take takes the region at an offset of the disk, in bytes, until Release.
func (d *Disk) Take(offset uint64) (*Region, error) {
	if offset == 0 || offset%pieces.SlotSize != 0 || offset > 1<<62 {
		return nil, fmt.Errorf("there is no region at %d", offset)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.taken[offset] {
		return nil, ErrBusy
	}
	f, err := d.open()
	if err != nil {
		return nil, fmt.Errorf("open the upper disk: %w", err)
	}
	if err := behind(f, offset); err != nil {
		_ = f.Close()
		return nil, err
	}
	// Not of the heap, which would keep it: the agent has little memory when it is idle.
	memory, err := unix.Mmap(-1, 0, 2*pieces.SlotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("take memory: %w", err)
	}
	d.taken[offset] = true
	return &Region{disk: d, offset: offset, f: f, memory: memory, buf: memory[pieces.SlotSize:], cached: -1}, nil
}

// open opens the block device. Whoever is root in the sandbox may have removed its node.
func (d *Disk) open() (*os.File, error) {
	var st, found unix.Stat_t
	if err := unix.Fstat(d.upper(), &st); err != nil {
		return nil, err
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return nil, err
	}
	path := "/dev/" + filepath.Base(link)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err = unix.Fstat(fd, &found); err == nil && (found.Mode&unix.S_IFMT != unix.S_IFBLK || found.Rdev != st.Dev) {
		err = fmt.Errorf("%s is another device", path)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// behind makes sure that the file system ends before offset: whoever is root in the sandbox may have made it larger.
// Documentation/filesystems/ext4/super.rst.
func behind(f *os.File, offset uint64) error {
	const size = 4096
	memory := make([]byte, 2*size)
	sb := memory[-uintptr(unsafe.Pointer(unsafe.SliceData(memory)))%size:][:size]
	if _, err := f.ReadAt(sb, 0); err != nil {
		return fmt.Errorf("read the superblock: %w", err)
	}
	sb = sb[1024:]
	blocks := uint64(binary.LittleEndian.Uint32(sb[0x150:]))<<32 | uint64(binary.LittleEndian.Uint32(sb[0x4:]))
	shift := 10 + binary.LittleEndian.Uint32(sb[0x18:])
	if binary.LittleEndian.Uint16(sb[0x38:]) != 0xef53 || shift > 16 || blocks > offset>>shift {
		return fmt.Errorf("the file system goes beyond %d", offset)
	}
	return nil
}

// Region is the part of the area that an operation uses: pieces.Slots. It is for one goroutine.
type Region struct {
	disk   *Disk
	offset uint64
	f      *os.File
	memory []byte // a mapping

	buf    []byte // what is not aligned goes through it
	cached int    // the slot that buf has the end of, from position on; -1: none
	from   int
}

func (r *Region) at(slot, offset int) int64 {
	return int64(r.offset) + int64(slot)*pieces.SlotSize + int64(offset)
}

// Memory is SlotSize bytes for direct input and output, from the begin of a page on. It may be used until Release.
func (r *Region) Memory() []byte { return r.memory[:pieces.SlotSize:pieces.SlotSize] }

// aligned reports whether memory can be read to and written from directly.
func aligned(b []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%sector == 0 }

func up(n int) int { return (n + sector - 1) &^ (sector - 1) }

// Put writes to a slot.
func (r *Region) Put(i int, p []byte) error {
	if !aligned(p) || len(p)%sector != 0 {
		n := copy(r.buf, p)
		r.cached = -1
		p = r.buf[:up(n)] // what is behind is what was there; the other end reads n
	}
	_, err := r.f.WriteAt(p, r.at(i, 0))
	return err
}

// direct is the size from which bytes are read straight to where they are wanted. Less is read together with what follows.
const direct = 64 << 10

// Get reads from a slot.
func (r *Region) Get(i, offset, n int, p []byte) (int, error) {
	if r.cached != i || offset < r.from {
		if len(p) >= direct && aligned(p) && offset%sector == 0 {
			want := min(up(n-offset), len(p)&^(sector-1))
			got, err := r.f.ReadAt(p[:want], r.at(i, offset))
			return min(got, n-offset), err
		}
		r.from = offset &^ (sector - 1)
		if _, err := r.f.ReadAt(r.buf[:up(n)-r.from], r.at(i, r.from)); err != nil {
			return 0, err
		}
		r.cached = i
	}
	got := copy(p, r.buf[offset-r.from:n-r.from])
	if offset+got == n {
		r.cached = -1 // the slot will have another piece
	}
	return got, nil
}

// Release gives the region back. Nothing is read or written there any more.
func (r *Region) Release() {
	_ = r.f.Close()
	_ = unix.Munmap(r.memory)
	r.memory, r.buf = nil, nil
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	delete(r.disk.taken, r.offset)
}
