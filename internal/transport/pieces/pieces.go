// Package pieces marks where a run of bytes ends on a stream that goes on, and says how it went: api/guest/v1/files.proto.
package pieces

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// Max is how many bytes a piece has at most.
	Max = 256 << 10
	// MaxResult is how many bytes the result at the end has at most.
	MaxResult = 64 << 10

	lengthSize = 4
)

// Writer cuts what is written into pieces.
type Writer struct {
	w   io.Writer
	buf []byte // the last of a short piece, with its length before it
}

// NewWriter returns a Writer to w, which gets each piece in one or two writes.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// joined is the size up to which a piece is copied behind its length: on the way to the host each write has its price.
const joined = 16 << 10

// Write writes p as pieces. Nothing is kept back.
func (w *Writer) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		piece := p[:min(len(p), Max)]
		w.buf = binary.BigEndian.AppendUint32(w.buf[:0], uint32(len(piece)))
		var err error
		if len(piece) <= joined {
			w.buf = append(w.buf, piece...)
			_, err = w.w.Write(w.buf)
		} else if _, err = w.w.Write(w.buf); err == nil {
			_, err = w.w.Write(piece)
		}
		if err != nil {
			return total, err
		}
		p, total = p[len(piece):], total+len(piece)
	}
	return total, nil
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
	result []byte
	err    error
}

// NewReader returns a Reader from r, of which it reads nothing behind the end.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Read reads up to the end of a piece. At the end it returns io.EOF, and Result is valid.
func (r *Reader) Read(p []byte) (int, error) {
	if err := r.next(); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p[:min(len(p), r.left)])
	r.left -= n
	if err != nil && (r.left > 0 || !errors.Is(err, io.EOF)) {
		r.err = unexpected(err)
		return n, r.err
	}
	return n, nil
}

// Piece returns the next piece, of at most Max bytes, in buf when it fits. At the end it returns io.EOF.
func (r *Reader) Piece(buf []byte) ([]byte, error) {
	if err := r.next(); err != nil {
		return nil, err
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

// next reads the length of the next piece when the last one is read, or the end.
func (r *Reader) next() error {
	if r.err != nil || r.left > 0 {
		return r.err
	}
	n, err := r.length(Max)
	if err == nil && n > 0 {
		r.left = n
		return nil
	}
	if err == nil {
		if n, err = r.length(MaxResult); err == nil {
			r.result = make([]byte, n)
			_, err = io.ReadFull(r.r, r.result)
		}
	}
	if r.err = unexpected(err); err == nil {
		r.err = io.EOF
	}
	return r.err
}

func (r *Reader) length(limit int) (int, error) {
	var b [lengthSize]byte
	if _, err := io.ReadFull(r.r, b[:]); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint32(b[:])
	if n > uint32(limit) {
		return 0, fmt.Errorf("a length of %d is more than the %d allowed", n, limit)
	}
	return int(n), nil
}

// Result is what the end said. It is valid once Read or Piece has returned io.EOF.
func (r *Reader) Result() []byte { return r.result }

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
