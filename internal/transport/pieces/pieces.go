// Package pieces marks where a run of bytes ends on a stream that goes on, and says how it went: api/guest/v1/files.proto. The
// bytes of large pieces may go by another way, in slots that both ends can reach; then the stream has their lengths alone.
package pieces

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// Max is how many bytes a piece has at most that is in the stream.
	Max = 256 << 10
	// MaxResult is how many bytes the result at the end has at most.
	MaxResult = 64 << 10

	lengthSize = 4
)

// What the upper bits of a length say.
const (
	inSlot = 1 << 31 // the piece is in the next slot
	freed  = 1 << 30 // no piece: so many slots may be used, or used again, by who reads this
)

// Writer cuts what is written into pieces.
type Writer struct {
	w    io.Writer
	buf  []byte // the last of a short piece, with its length before it
	far  Slots  // nil: all goes through the stream
	next int    // the slot that is used next
	free *Credit
}

// NewWriter returns a Writer to w, which gets each piece in one or two writes.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Use has large pieces go into slots, as far as the other end frees some.
func (w *Writer) Use(s Slots, free *Credit) { w.far, w.free = s, free }

// joined is the size up to which a piece is copied behind its length: on the way to the host each write has its price.
const joined = 16 << 10

// Write writes p as pieces. Nothing is kept back.
func (w *Writer) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		n, err := w.put(p)
		if n == 0 && err == nil {
			n, err = w.send(p[:min(len(p), Max)])
		}
		if err != nil {
			return total, err
		}
		p, total = p[n:], total+n
	}
	return total, nil
}

func (w *Writer) send(piece []byte) (int, error) {
	w.buf = binary.BigEndian.AppendUint32(w.buf[:0], uint32(len(piece)))
	var err error
	if len(piece) <= joined {
		w.buf = append(w.buf, piece...)
		_, err = w.w.Write(w.buf)
	} else if _, err = w.w.Write(w.buf); err == nil {
		_, err = w.w.Write(piece)
	}
	return len(piece), err
}

// End writes the end, and the result of at most MaxResult bytes.
func (w *Writer) End(result []byte) error {
	if len(result) > MaxResult {
		return fmt.Errorf("a result of %d bytes is longer than %d", len(result), MaxResult)
	}
	buf := binary.BigEndian.AppendUint32(make([]byte, lengthSize, 2*lengthSize+len(result)), uint32(len(result)))
	_, err := w.w.Write(append(buf, result...))
	return err
}

// Reader reads what a Writer wrote. It holds no more than the result.
type Reader struct {
	r      io.Reader
	left   int // of the piece that is being read
	far    Slots
	slot   int // the slot of the next piece that is in one
	size   int // of the piece in it that is being read; 0: that piece is in the stream
	free   func() error
	credit *Credit
	result []byte
	err    error
}

// NewReader returns a Reader from r, of which it reads nothing behind the end.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Use lets pieces be in slots. free is called when a piece has been read out of one.
func (r *Reader) Use(s Slots, free func() error) { r.far, r.free = s, free }

// Count has the slots counted that the other end frees for the Writer of this end.
func (r *Reader) Count(c *Credit) { r.credit = c }

// Read reads up to the end of a piece. At the end it returns io.EOF, and Result is valid.
func (r *Reader) Read(p []byte) (int, error) {
	if err := r.advance(); err != nil {
		return 0, err
	}
	if r.size > 0 {
		return r.get(p)
	}
	n, err := r.r.Read(p[:min(len(p), r.left)])
	r.left -= n
	if err != nil && (r.left > 0 || !errors.Is(err, io.EOF)) {
		r.err = unexpected(err)
		return n, r.err
	}
	return n, nil
}

// Piece returns the next piece, of at most Max bytes and in no slot, in buf when it fits. At the end it returns io.EOF.
func (r *Reader) Piece(buf []byte) ([]byte, error) {
	if err := r.advance(); err != nil {
		return nil, err
	}
	if r.size > 0 {
		r.err = errors.New("a piece is in a slot and should not be")
		return nil, r.err
	}
	if cap(buf) < r.left {
		buf = make([]byte, r.left)
	}
	buf = buf[:r.left]
	if _, err := io.ReadFull(r.r, buf); err != nil {
		r.err = unexpected(err)
		return nil, r.err
	}
	r.left = 0
	return buf, nil
}

// advance reads the length of the next piece when the last one is read, or the end.
func (r *Reader) advance() error {
	for r.err == nil && r.left == 0 {
		r.err = r.word()
	}
	return r.err
}

// word reads a length and what its upper bits say. It returns io.EOF at the end.
func (r *Reader) word() error {
	n, err := r.length()
	if err != nil {
		return err
	}
	switch {
	case n&inSlot != 0:
		return r.begin(n &^ inSlot)
	case n&freed != 0:
		if r.credit == nil {
			return errors.New("slots were freed that nobody uses")
		}
		return r.credit.Add(n &^ freed)
	case n > Max:
		return tooLong(n, Max)
	case n > 0:
		r.left, r.size = int(n), 0
		return nil
	}
	if n, err = r.length(); err != nil {
		return err
	}
	if n > MaxResult {
		return tooLong(n, MaxResult)
	}
	r.result = make([]byte, n)
	if _, err := io.ReadFull(r.r, r.result); err != nil {
		return unexpected(err)
	}
	return io.EOF
}

func (r *Reader) length() (uint32, error) {
	var b [lengthSize]byte
	if _, err := io.ReadFull(r.r, b[:]); err != nil {
		return 0, unexpected(err)
	}
	return binary.BigEndian.Uint32(b[:]), nil
}

func tooLong(n uint32, limit int) error {
	return fmt.Errorf("a length of %d is more than the %d allowed", n, limit)
}

// Result is what the end said. It is valid once Read or Piece has returned io.EOF.
func (r *Reader) Result() []byte { return r.result }

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
