// Package hangup tells when the client of a connection is gone, also while nobody reads from it.
//
// A server learns of the end of a connection by reading it. When what it reads goes to a guest that takes nothing, it does not
// read, and a client that has gone away would keep its request for ever. The kernel knows nevertheless: epoll_ctl(2), EPOLLHUP.
package hangup

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// ErrGone is why the context of a connection ends.
var ErrGone = errors.New("the client is gone")

// patience is how long what a client has sent before it went may still be read. That ends most requests by itself, and says
// more of how.
const patience = time.Second

// Listener is a listener of unix sockets whose connections are watched, on Linux; elsewhere it only listens.
type Listener struct {
	net.Listener
	w *watcher
}

// Listen makes a Listener of l, which it then owns.
func Listen(l net.Listener) (*Listener, error) {
	w, err := newWatcher()
	if err != nil {
		return nil, err
	}
	return &Listener{l, w}, nil
}

// Accept waits for the next connection. A connection that cannot be watched is served as any other.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return c, nil
	}
	conn := &Conn{UnixConn: unix}
	conn.ctx, conn.cancel = context.WithCancelCause(context.Background())
	conn.forget = l.w.add(unix, conn.end)
	return conn, nil
}

// Close ends listening. Connections that are open are watched no more.
func (l *Listener) Close() error {
	return errors.Join(l.Listener.Close(), l.w.close())
}

// Conn is a connection of a Listener.
type Conn struct {
	*net.UnixConn
	ctx    context.Context // ends some time after one of the two ends was closed
	cancel context.CancelCauseFunc
	forget func()
	over   sync.Once
}

func (c *Conn) end() {
	c.over.Do(func() { time.AfterFunc(patience, func() { c.cancel(ErrGone) }) })
}

// Close closes the connection. Its context ends after what it is for has had the time to say how it ended.
func (c *Conn) Close() error {
	c.end()
	c.forget()
	return c.UnixConn.Close()
}

// Context returns a context that ends with ctx, and when c has been closed, at either end, for a second. It is the ConnContext of
// an http.Server.
func Context(ctx context.Context, c net.Conn) context.Context {
	conn, ok := c.(*Conn)
	if !ok {
		return ctx
	}
	ctx, cancel := context.WithCancelCause(ctx)
	context.AfterFunc(conn.ctx, func() { cancel(context.Cause(conn.ctx)) })
	return ctx
}
