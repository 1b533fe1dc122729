package guestlink

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/agentkernel/agentkernel/internal/transport/preamble"
	"github.com/agentkernel/agentkernel/internal/transport/yamuxconn"
)

// Port is the guest's end of the serial link. Read waits until the host has sent something, also while no host is there;
// Write waits until the host takes what is written. A write deadline ends a Write that waits.
type Port interface {
	io.ReadWriter
	SetWriteDeadline(time.Time) error
}

var errNewSession = errors.New("the host has begun another session")

// Serve serves the sessions that the host begins with token on port. It returns when the port fails.
func Serve(port Port, token preamble.Token, mux *Mux) error {
	l := &link{port: port, finder: preamble.NewFinder(token[:])}
	for {
		nonce, err := l.await()
		if err != nil {
			return fmt.Errorf("wait for the host on the serial link: %w", err)
		}
		if _, err := port.Write(preamble.Bytes(token, nonce)); err != nil {
			return fmt.Errorf("answer the host on the serial link: %w", err)
		}
		open := new(streams)
		session, err := yamux.Server(&sessionConn{link: l, joiner: yamuxconn.NewJoiner(port), open: open}, yamuxconn.Config(yamuxconn.GuestWindow))
		if err != nil {
			return fmt.Errorf("begin a session on the serial link: %w", err)
		}
		mux.serve(session, open)
		// The session closes itself before serve returns, but its writer may still be at it: Close waits for that.
		_ = session.Close()
		if err := port.SetWriteDeadline(time.Time{}); err != nil {
			return fmt.Errorf("end a session on the serial link: %w", err)
		}
	}
}

// link reads the port and looks for the token in all that comes. It belongs to whoever reads: Serve between sessions, the
// session's reader within one.
type link struct {
	port   Port
	finder *preamble.Finder
	begun  bool   // a token was found whose nonce was not taken yet
	rest   []byte // was read behind the last token, and not taken yet
}

// read reads once. When there is a token in what was read, begun is set and rest is what follows the last one.
func (l *link) read(p []byte) (n int, found bool, err error) {
	n, err = l.port.Read(p)
	for p = p[:n]; ; found = true {
		i := l.finder.Find(p)
		if i < 0 {
			break
		}
		p = p[i:]
	}
	if found {
		l.begun = true
		l.rest = append(l.rest[:0], p...)
	}
	return n, found, err
}

// await skips everything up to a token and returns the nonce that follows it.
func (l *link) await() (nonce preamble.Nonce, err error) {
	buf := make([]byte, 4096)
	for !l.begun || len(l.rest) < len(nonce) {
		n, found, err := l.read(buf)
		if err != nil {
			return nonce, err
		}
		if l.begun && !found {
			l.rest = append(l.rest, buf[:n]...)
		}
	}
	l.begun = false
	l.rest = l.rest[copy(nonce[:], l.rest):]
	return nonce, nil
}

// sessionConn is what a yamux session reads from and writes to. It ends where the next session begins.
type sessionConn struct {
	link   *link
	joiner *yamuxconn.Joiner
	open   *streams
	closed atomic.Bool
}

// Read goes on until the port fails or a token comes, also when the session was closed for another reason: nothing
// interrupts a read of the port, and the host will begin another session.
func (c *sessionConn) Read(p []byte) (int, error) {
	if l := c.link; len(l.rest) > 0 {
		n := copy(p, l.rest)
		l.rest = l.rest[n:]
		return n, nil
	}
	for {
		n, found, err := c.link.read(p)
		switch {
		case err != nil:
			c.open.end()
			return 0, err
		case found:
			c.open.end()
			return 0, errNewSession
		case !c.closed.Load():
			return n, nil
		}
	}
}

func (c *sessionConn) Write(p []byte) (int, error) { return c.joiner.Write(p) }

// Close ends a write that waits.
func (c *sessionConn) Close() error {
	c.closed.Store(true)
	return c.link.port.SetWriteDeadline(past)
}
