// Package chunk adds to a connection what the channels to a guest lack: an end of one direction while the other goes on, and
// a break with a reason. Each direction is a sequence of chunks: a big-endian u32, and what it announces:
//
//	0                 the end of this direction; nothing follows
//	1 … 2^31-1        so many bytes of data
//	2^31 + n          the sender breaks off; n bytes (at most 1024) of text say why; nothing follows
//
// A Conn holds no data back and needs no memory for what the other side announces: a chunk is handed on as it comes.
package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"unicode"
)

const (
	headerSize = 4
	breakFlag  = 1 << 31
	maxReason  = 1024
	// Size is how much data a chunk carries that a Conn writes, in bytes.
	Size = 128 << 10
)

// BreakError is why the other side broke off. The text is the other side's, without control characters.
type BreakError struct{ Reason string }

func (e *BreakError) Error() string { return e.Reason }

// errEnded is returned for a write after the end of the direction.
var errEnded = errors.New("write after the end of the stream")

// Conn is a connection of chunks. Read may be called by one goroutine and the writing methods by another; Close by any.
type Conn struct {
	net.Conn

	left uint32 // bytes of the chunk that is being read
	rerr error  // sticky

	mu    sync.Mutex // guards the writing side
	buf   []byte
	ended bool
}

// New returns a Conn over c, of which nothing that belongs to a chunk has been read.
func New(c net.Conn) *Conn { return &Conn{Conn: c} }

// Read returns io.EOF when the other side has ended its direction, a *BreakError when it broke off, and
// io.ErrUnexpectedEOF when the connection ended before that.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for c.left == 0 && c.rerr == nil {
		c.left, c.rerr = c.header()
	}
	if c.rerr != nil {
		return 0, c.rerr
	}
	n, err := c.Conn.Read(p[:min(len(p), int(c.left))])
	c.left -= uint32(n)
	if err != nil {
		c.rerr = unexpected(err)
		if n > 0 {
			return n, nil
		}
	}
	return n, c.rerr
}

// header reads the beginning of a chunk.
func (c *Conn) header() (length uint32, err error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(c.Conn, b[:]); err != nil {
		return 0, unexpected(err)
	}
	n := binary.BigEndian.Uint32(b[:])
	switch {
	case n == 0:
		return 0, io.EOF
	case n < breakFlag:
		return n, nil
	case n-breakFlag > maxReason:
		return 0, fmt.Errorf("the other side gave a reason of %d bytes, more than the %d allowed", n-breakFlag, maxReason)
	}
	text := make([]byte, n-breakFlag)
	if _, err := io.ReadFull(c.Conn, text); err != nil {
		return 0, unexpected(err)
	}
	return 0, &BreakError{Clean(string(text))}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Clean makes text of the other side fit to be shown: without control characters.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s)
}

// Write sends p as chunks.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return 0, errEnded
	}
	for len(p) > 0 {
		piece := p[:min(len(p), Size)]
		c.buf = append(binary.BigEndian.AppendUint32(c.buf[:0], uint32(len(piece))), piece...) // in one write
		if _, err := c.Conn.Write(c.buf); err != nil {
			return n, err
		}
		n += len(piece)
		p = p[len(piece):]
	}
	return n, nil
}

// ReadFrom sends what r has until its end, without ending the direction.
func (c *Conn) ReadFrom(r io.Reader) (total int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return 0, errEnded
	}
	if cap(c.buf) < headerSize+Size {
		c.buf = make([]byte, headerSize+Size)
	}
	buf := c.buf[:headerSize+Size]
	for {
		n, err := r.Read(buf[headerSize:])
		if n > 0 {
			binary.BigEndian.PutUint32(buf, uint32(n))
			if _, err := c.Conn.Write(buf[:headerSize+n]); err != nil {
				return total, err
			}
			total += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// CloseWrite ends this side's direction. It may be called more than once.
func (c *Conn) CloseWrite() error { return c.end(0, "") }

// Break tells the other side that this one gives up, and why. It may be called after CloseWrite, and does nothing then.
func (c *Conn) Break(reason string) error {
	reason = reason[:min(len(reason), maxReason)]
	return c.end(breakFlag+uint32(len(reason)), reason)
}

func (c *Conn) end(header uint32, reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	c.ended = true
	_, err := c.Conn.Write(append(binary.BigEndian.AppendUint32(nil, header), reason...))
	return err
}
