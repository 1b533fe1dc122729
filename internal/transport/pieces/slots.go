package pieces

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// SlotSize is how many bytes a slot holds.
	SlotSize = 1 << 20
	// NumSlots is how many slots a Writer and a Reader share. They are used in turns, so that no piece needs to name its own.
	NumSlots = 4
	// far is the size from which a piece goes into a slot when one is free.
	far = 64 << 10
)

// Slots are memory of another kind that both ends reach.
type Slots interface {
	// Put writes p, at most SlotSize bytes, to the begin of slot i.
	Put(i int, p []byte) error
	// Get reads into p from offset on of the n bytes in slot i, and returns how many: at least one.
	Get(i, offset, n int, p []byte) (int, error)
}

// put writes the begin of p to a slot, and returns how much; 0 when it shall go through the stream.
func (w *Writer) put(p []byte) (int, error) {
	if w.far == nil || len(p) < far {
		return 0, nil
	}
	ok, err := w.free.take()
	if !ok || err != nil {
		return 0, err
	}
	p = p[:min(len(p), SlotSize)]
	if err := w.far.Put(w.next, p); err != nil {
		return 0, w.free.Add(1) // where they are kept is full, for one
	}
	w.next = (w.next + 1) % NumSlots
	w.buf = binary.BigEndian.AppendUint32(w.buf[:0], inSlot|uint32(len(p)))
	_, err = w.w.Write(w.buf)
	return len(p), err
}

// begin begins to read a piece of n bytes in the next slot.
func (r *Reader) begin(n uint32) error {
	if r.far == nil {
		return errors.New("a piece is in a slot, and there are none")
	}
	if n == 0 || n > SlotSize {
		return fmt.Errorf("a piece of %d bytes is in a slot of %d", n, SlotSize)
	}
	r.left, r.size = int(n), int(n)
	return nil
}

func (r *Reader) get(p []byte) (int, error) {
	n, err := r.far.Get(r.slot, r.size-r.left, r.size, p[:min(len(p), r.left)])
	if err == nil && len(p) > 0 && (n < 1 || n > min(len(p), r.left)) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		r.err = fmt.Errorf("read a slot: %w", unexpected(err))
		return 0, r.err
	}
	if r.left -= n; r.left > 0 {
		return n, nil
	}
	r.slot = (r.slot + 1) % NumSlots
	_ = r.free() // a broken stream is the next Read's error
	return n, nil
}

// Free tells the other end on w that it may use n slots, or use them again.
func Free(w io.Writer, n int) error {
	_, err := w.Write(binary.BigEndian.AppendUint32(nil, freed|uint32(n)))
	return err
}

// Credit counts free slots.
type Credit struct {
	free chan struct{}
	once sync.Once
	gone chan struct{}
	ever bool // belongs to the goroutine that takes
}

// NewCredit returns a Credit of n slots.
func NewCredit(n int) *Credit {
	c := &Credit{free: make(chan struct{}, NumSlots), gone: make(chan struct{})}
	for range n {
		c.free <- struct{}{}
	}
	return c
}

// Add adds n slots. There are no more than NumSlots.
func (c *Credit) Add(n uint32) error {
	for range min(n, NumSlots+1) {
		select {
		case c.free <- struct{}{}:
		default:
			return errors.New("more slots were freed than there are")
		}
	}
	return nil
}

// Close wakes who waits for a slot. It may be called more than once.
func (c *Credit) Close() { c.once.Do(func() { close(c.gone) }) }

// take takes a slot. Before there was any it does not wait, since the other end may not want to use slots.
func (c *Credit) take() (bool, error) {
	if !c.ever {
		select {
		case <-c.free:
			c.ever = true
		default:
		}
		return c.ever, nil
	}
	select {
	case <-c.free:
		return true, nil
	case <-c.gone:
		return false, io.ErrClosedPipe
	}
}
