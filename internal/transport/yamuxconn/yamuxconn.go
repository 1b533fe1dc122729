// Package yamuxconn holds what both ends of a serial link have in common in how they run yamux: its settings, the port that
// each stream begins with, and the joining of a frame's header with its body.
package yamuxconn

import (
	"encoding/binary"
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// Frame layout: github.com/hashicorp/yamux/blob/master/spec.md.
const (
	HeaderSize = 12
	TypeData   = 0
	TypeWindow = 1
	TypePing   = 2
	TypeGoAway = 3
	FlagSYN    = 1
	// Window is how many bytes a stream from the guest may have under way unread: yamux's smallest.
	Window = 256 << 10
	// GuestWindow is the same for a stream from the host. The more there is to read at once, the less often the guest waits
	// for more, which costs it more than the reading.
	GuestWindow = 1 << 20
	// Backlog is how many streams may wait for the other end to take them. yamux wants it the same at both ends.
	Backlog = 256
)

// closeTimeout is how long a closed stream waits for the other end to close it too, before it is reset.
const closeTimeout = 30 * time.Second

// never is longer than any microVM runs. A microVM may be paused, or its host stopped, for any time, and that must not
// break a stream: whoever waits for one has a context or closes it.
const never = 10 * 365 * 24 * time.Hour

// Config returns the settings of yamux for an end that lets a stream have window bytes under way unread. There is no timer
// in them that runs while a session is idle.
func Config(window uint32) *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          Backlog,
		EnableKeepAlive:        false,
		KeepAliveInterval:      never, // has to be set
		ConnectionWriteTimeout: never,
		MaxStreamWindowSize:    window,
		StreamOpenTimeout:      0,
		StreamCloseTimeout:     closeTimeout,
		LogOutput:              io.Discard,
	}
}

// WritePort writes the port that a new stream is for.
func WritePort(w io.Writer, port uint32) error {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], port)
	_, err := w.Write(b[:])
	return err
}

// ReadPort reads what WritePort wrote.
func ReadPort(r io.Reader) (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b[:]), nil
}

// maxJoined bounds the body that Joiner copies behind its header, in bytes.
const maxJoined = 64 << 10

// Joiner writes a data frame's header, which yamux writes by itself, together with the body that follows it. On a
// virtio-serial link each write is an exit of the vCPU. It is for one writer, as yamux is.
type Joiner struct {
	w       io.Writer
	pending bool // buf holds a header whose body has not come yet
	buf     []byte
}

// NewJoiner returns a Joiner that writes to w.
func NewJoiner(w io.Writer) *Joiner { return &Joiner{w: w} }

func (j *Joiner) Write(p []byte) (int, error) {
	if !j.pending {
		if len(p) == HeaderSize && p[1] == TypeData && binary.BigEndian.Uint32(p[8:]) > 0 {
			j.buf = append(j.buf[:0], p...)
			j.pending = true
			return len(p), nil
		}
		return j.w.Write(p)
	}
	j.pending = false
	if len(p) > maxJoined {
		if _, err := j.w.Write(j.buf); err != nil {
			return 0, err
		}
		return j.w.Write(p)
	}
	j.buf = append(j.buf, p...)
	n, err := j.w.Write(j.buf)
	return max(0, n-HeaderSize), err
}
