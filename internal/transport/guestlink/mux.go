// Package guestlink is the guest's end of a serial link: it serves one yamux session after another on a port that the host
// may leave and come back to at any moment, and hands the host's streams to a net.Listener for each port number.
//
// The guest trusts the host. What it must not do is to mix sessions: no byte of an old one may follow the answer that
// begins a new one.
package guestlink

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/agentkernel/agentkernel/internal/transport/yamuxconn"
)

// Mux hands streams to listeners. The zero value is ready for use.
type Mux struct {
	mu        sync.Mutex
	listeners map[uint32]*listener
}

// Listen returns the listener for a port. Its connections return io.EOF from Read whatever ended them.
func (m *Mux) Listen(port uint32) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listeners[port] != nil {
		return nil, fmt.Errorf("port %d is taken", port)
	}
	if m.listeners == nil {
		m.listeners = make(map[uint32]*listener)
	}
	l := &listener{mux: m, port: port, streams: make(chan *conn), closed: make(chan struct{})}
	m.listeners[port] = l
	return l, nil
}

func (m *Mux) remove(port uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.listeners, port)
}

// serve accepts the streams of a session until it ends, and has them in open.
func (m *Mux) serve(session *yamux.Session, open *streams) {
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		c := &conn{Stream: stream, open: open}
		open.add(c)
		go m.route(session, c)
	}
}

func (m *Mux) route(session *yamux.Session, stream *conn) {
	port, err := yamuxconn.ReadPort(stream)
	if err == nil {
		m.mu.Lock()
		l := m.listeners[port]
		m.mu.Unlock()
		if l != nil {
			select {
			case l.streams <- stream:
				return
			case <-l.closed:
			case <-session.CloseChan():
			}
		}
	}
	_ = stream.Close()
}

type listener struct {
	mux     *Mux
	port    uint32
	streams chan *conn
	once    sync.Once
	closed  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case s := <-l.streams:
		return s, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.mux.remove(l.port)
		close(l.closed)
	})
	return nil
}

func (l *listener) Addr() net.Addr { return addr(l.port) }

type addr uint32

func (a addr) Network() string { return "serial" }
func (a addr) String() string  { return fmt.Sprintf("serial port %d", uint32(a)) }

// conn is a stream whose end is io.EOF: the RPC server below holds on to connections that end in any other way. yamux lets
// a stream be written to when the other end has closed it; here nobody reads then, so it is closed.
type conn struct {
	*yamux.Stream
	open *streams
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if err != nil {
		_ = c.Close()
		err = io.EOF
	}
	return n, err
}

func (c *conn) Close() error {
	c.open.remove(c)
	return c.Stream.Close()
}

// streams are those of one session that are open.
type streams struct {
	mu   sync.Mutex
	open map[*conn]struct{}
	over bool
}

func (s *streams) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		_ = c.SetReadDeadline(past)
		return
	}
	if s.open == nil {
		s.open = make(map[*conn]struct{})
	}
	s.open[c] = struct{}{}
}

func (s *streams) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

var past = time.Unix(1, 0)

// end ends reads that wait, just before the session closes. yamux closes a session first and its streams later, and in between a
// read that waits goes round and round: on a guest's one CPU, that keeps whoever closes the session from going on.
func (s *streams) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for c := range s.open {
		_ = c.SetReadDeadline(past)
	}
}
