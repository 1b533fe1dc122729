// Package duplex joins two connections so that each end sees what the other does: data, the end of one direction while the
// other goes on, and a break.
package duplex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// A buffer begins small and grows when reads fill it: most of the connections to a server carry little.
	minBuffer = 4 << 10
	maxBuffer = 32 << 10
	// breakPatience is how long a peer that does not read is given to learn why a connection is broken, and hurriedPatience how
	// long when all is to end.
	breakPatience   = 5 * time.Second
	hurriedPatience = 250 * time.Millisecond
)

// Conn is a connection with two directions. Read returns io.EOF only for the end of the other side's direction.
type Conn interface {
	io.ReadWriteCloser
	// CloseWrite ends this side's direction.
	CloseWrite() error
	// Break tells the other side, as far as that can be told, that this is no orderly end. Close is still to be called.
	Break(reason string) error
}

// Join carries data between a and b until both directions have ended, one is broken, or ctx ends, and closes both. What
// breaks one is passed on as a break of the other; it is also the error. Slow readers are waited for, and at most 64 KiB are
// held.
func Join(ctx context.Context, a, b Conn) error {
	var (
		once   sync.Once
		cause  error
		ended  sync.WaitGroup // the directions
		broken sync.WaitGroup // what tells both ends of a break
	)
	fail := func(err error, patience time.Duration) {
		once.Do(func() {
			cause = err
			for _, c := range []Conn{a, b} {
				broken.Go(func() { breakOff(c, reason(err), patience) })
			}
		})
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		fail(context.Cause(ctx), hurriedPatience)
	})
	for _, d := range [][2]Conn{{a, b}, {b, a}} {
		ended.Go(func() {
			if err := pipe(d[0], d[1]); err != nil {
				fail(err, breakPatience)
			}
		})
	}
	ended.Wait()
	if !stop() {
		<-done
	}
	broken.Wait()
	_ = a.Close()
	_ = b.Close()
	return cause
}

func pipe(dst, src Conn) error {
	buf := make([]byte, minBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return dst.CloseWrite()
		}
		if err != nil {
			return err
		}
		if n == len(buf) && n < maxBuffer {
			buf = make([]byte, 2*n)
		}
	}
}

func breakOff(c Conn, reason string, patience time.Duration) {
	giveUp := time.AfterFunc(patience, func() { _ = c.Close() })
	defer giveUp.Stop()
	_ = c.Break(reason)
	_ = c.Close()
}

// reset is the reason that is passed on for a socket's reset.
const reset = "connection reset"

// IsReset reports whether the error of a Join is that one of the two ends reset the connection.
func IsReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || err != nil && err.Error() == reset
}

func reason(err error) string {
	if IsReset(err) {
		return reset
	}
	return err.Error()
}

// socket is a TCP connection or a unix socket.
type socket struct {
	net.Conn
	half interface{ CloseWrite() error }
}

// Socket makes a Conn of a *net.TCPConn, for which a break is a reset, or of a *net.UnixConn, which knows none.
func Socket(c net.Conn) (Conn, error) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return nil, fmt.Errorf("%T cannot end one direction", c)
	}
	return socket{c, half}, nil
}

func (s socket) CloseWrite() error {
	err := s.half.CloseWrite()
	if errors.Is(err, syscall.ENOTCONN) {
		return nil // the other end is gone, and it is the other direction that tells how
	}
	return err
}

func (s socket) Break(string) error {
	if t, ok := s.Conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // closing resets the connection: socket(7), SO_LINGER
	}
	return s.Close()
}
