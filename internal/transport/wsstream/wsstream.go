// Package wsstream carries a stream with two directions over a WebSocket: binary messages are data, wherever they are cut;
// an empty one is the end of its sender's direction; a close frame with status StatusBroken breaks both off, with the reason
// in it.
package wsstream

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/agentkernel/agentkernel/internal/transport/chunk"
)

// Protocol is the WebSocket subprotocol.
const Protocol = "dial.v1.agentkernel"

// StatusBroken is the status of the close frame that breaks a stream off: one of those that applications may use (RFC 6455,
// section 7.4.2).
const StatusBroken = 4000

const maxReason = 123 // bytes of a close frame's text: RFC 6455, section 5.5

var errEnded = errors.New("write after the end of the stream")

// Conn is a stream. Read may be called by one goroutine and the writing methods by another; Close by any. It is a net.Conn:
// a deadline that passes closes it.
type Conn struct {
	ws     *websocket.Conn
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	message io.Reader // the rest of the message that is being read, or nil
	empty   bool      // nothing of it has been read
	rerr    error     // sticky

	mu    sync.Mutex // guards the writing side
	ended bool

	timers [2]deadline // of reads and of writes
}

// New returns a stream over ws, which it then owns.
func New(ws *websocket.Conn) *Conn {
	ws.SetReadLimit(-1) // messages are handed on as they come, never held
	ctx, cancel := context.WithCancel(context.Background())
	return &Conn{ws: ws, ctx: ctx, cancel: cancel}
}

// Read returns io.EOF when the other side has ended its direction, a *chunk.BreakError when it broke off, and
// io.ErrUnexpectedEOF when the connection ended before that.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for c.rerr == nil {
		if c.message == nil {
			kind, r, err := c.ws.Reader(c.ctx)
			switch {
			case err != nil:
				c.rerr = broken(err)
				continue
			case kind != websocket.MessageBinary:
				c.rerr = errors.New("a text message came, and a stream has none")
				continue
			}
			c.message, c.empty = r, true
		}
		n, err := c.message.Read(p)
		if n > 0 {
			c.empty = false
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && c.empty:
			c.rerr = io.EOF
		case errors.Is(err, io.EOF):
			c.message = nil
		default:
			c.rerr = broken(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, c.rerr
}

// broken is what the end of a WebSocket means where the stream has not ended.
func broken(err error) error {
	var closed websocket.CloseError
	if errors.As(err, &closed) && closed.Code == StatusBroken {
		return &chunk.BreakError{Reason: chunk.Clean(closed.Reason)}
	}
	if errors.As(err, &closed) || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Write sends p as one message.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return 0, errEnded
	}
	if err := c.ws.Write(c.ctx, websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite ends this side's direction. It may be called more than once.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	c.ended = true
	return c.ws.Write(c.ctx, websocket.MessageBinary, nil)
}

// Break tells the other side that this one gives up, and why, and closes the stream.
func (c *Conn) Break(reason string) error {
	defer c.cancel()
	return c.ws.Close(StatusBroken, strings.ToValidUTF8(reason[:min(len(reason), maxReason)], ""))
}

// Close closes the stream; where it has not ended, the other side sees that it is broken.
func (c *Conn) Close() error {
	c.cancel()
	for i := range c.timers {
		c.timers[i].set(time.Time{}, nil)
	}
	return c.ws.CloseNow()
}

// deadline closes a stream at a time.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
}

func (d *deadline) set(at time.Time, passed func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), passed)
	}
}

// SetReadDeadline closes the stream at a time, or never for the zero time.
func (c *Conn) SetReadDeadline(t time.Time) error { c.timers[0].set(t, c.expire); return nil }

// SetWriteDeadline closes the stream at a time, or never for the zero time.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.timers[1].set(t, c.expire); return nil }

// SetDeadline is both.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *Conn) expire() {
	c.cancel()
	_ = c.ws.CloseNow()
}

// LocalAddr says that this is no socket.
func (c *Conn) LocalAddr() net.Addr { return address{} }

// RemoteAddr says that this is no socket.
func (c *Conn) RemoteAddr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "agentkernel" }
func (address) String() string  { return "sandbox" }
