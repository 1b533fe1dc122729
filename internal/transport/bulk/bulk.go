// Package bulk is the host's end of a way for large pieces between host and guest beside their channel: the file of the upper
// disk goes on behind its file system, and what one side writes there the other side reads.
//
// A serial port passes some KiB at a time, and each byte is moved by the guest's own instructions. A disk's requests have up
// to a MiB, which the VMM copies straight into the guest's memory. That is ten times as fast where the guest is emulated.
//
// The area has a fixed size and is divided into regions, one for each copy that is under way; what has found none goes
// through the channel alone. The guest can write all of it at any time, as it can write its disk. So nothing of what is there is
// believed: the channel says how much to read and when, and the region of a copy that has ended is given back to the host's
// disk. The guest takes no region before the last that had it is done with it (package bulk of the guest).
package bulk

import (
	"errors"
	"os"
	"sync"

	"github.com/agentkernel/agentkernel/internal/transport/pieces"
)

const (
	// Size of the area, in bytes.
	Size = regions * regionSize

	regions    = 4
	regionSize = pieces.NumSlots * pieces.SlotSize
)

// Area is the one of a disk. Its methods may be called from any goroutine.
type Area struct {
	path   string
	offset int64

	mu   sync.Mutex
	used [regions]bool
}

// New returns the area that begins at this offset of a disk's file, where there may be none.
func New(path string, offset int64) *Area { return &Area{path: path, offset: offset} }

// Take takes a region; nil when none is free or the disk has none.
func (a *Area) Take() *Region {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, used := range a.used {
		if used {
			continue
		}
		f, err := a.open()
		if err != nil {
			return nil
		}
		a.used[i] = true
		return &Region{area: a, index: i, Offset: a.offset + int64(i)*regionSize, f: f}
	}
	return nil
}

var errNone = errors.New("the disk has no area for large pieces")

func (a *Area) open() (*os.File, error) {
	f, err := os.OpenFile(a.path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != a.offset+Size) { // of an older daemon
		err = errNone
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Region is the part of an area that a copy uses: pieces.Slots.
type Region struct {
	Offset int64 // on the disk, in bytes

	area  *Area
	index int

	mu   sync.RWMutex // held to write by Release, which waits for the others
	f    *os.File     // nil once it is released
	used bool
}

// Put writes to a slot. It fails once the region is released.
func (r *Region) Put(i int, p []byte) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.f == nil {
		return os.ErrClosed
	}
	r.used = true
	_, err := r.f.WriteAt(p, r.at(i, 0))
	return err
}

// Get reads from a slot.
func (r *Region) Get(i, offset, n int, p []byte) (int, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.f == nil {
		return 0, os.ErrClosed
	}
	r.used = true
	return r.f.ReadAt(p[:min(len(p), n-offset)], r.at(i, offset))
}

func (r *Region) at(slot, offset int) int64 {
	return r.Offset + int64(slot)*pieces.SlotSize + int64(offset)
}

// Release gives the region back, and what it takes of the host's disk. It may be called more than once.
func (r *Region) Release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return
	}
	if r.used {
		_ = punch(r.f, r.Offset, regionSize) // a file system without holes keeps it: it is no more than the region
	}
	_ = r.f.Close()
	r.f = nil
	r.area.mu.Lock()
	r.area.used[r.index] = false
	r.area.mu.Unlock()
}
