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
	l := &listener{mux: m, port: port, streams: make(chan *yamux.Stream), closed: make(chan struct{})}
	m.listeners[port] = l
	return l, nil
}

func (m *Mux) remove(port uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.listeners, port)
}

// serve accepts the streams of a session until it ends.
func (m *Mux) serve(session *yamux.Session) {
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go m.route(session, stream)
	}
}

func (m *Mux) route(session *yamux.Session, stream *yamux.Stream) {
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
	streams chan *yamux.Stream
	once    sync.Once
	closed  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case s := <-l.streams:
		return &conn{s}, nil
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
type conn struct{ *yamux.Stream }

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if err != nil {
		_ = c.Stream.Close()
		err = io.EOF
	}
	return n, err
}
