package chunk

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// breakPatience is how long a peer that does not read is given to learn why a stream breaks off.
const breakPatience = 5 * time.Second

// Socket is a connection that can end one direction: TCP, a unix socket.
type Socket interface {
	net.Conn
	CloseWrite() error
}

// Join carries data between c and s until both directions have ended or one is broken, and closes both. What one side breaks
// off, the other sees as broken as well: c gets a reason, and s a reset where it is TCP. The error is why it was broken.
func Join(c *Conn, s Socket) error {
	var once sync.Once
	var cause error
	fail := func(err error) {
		once.Do(func() {
			cause = err
			if t, ok := s.(*net.TCPConn); ok {
				_ = t.SetLinger(0)
			}
			_ = s.Close()
			var told *BreakError
			if !errors.As(err, &told) {
				// A peer that does not read must not hold this up.
				giveUp := time.AfterFunc(breakPatience, func() { _ = c.Close() })
				go func() {
					_ = c.Break(reason(err))
					giveUp.Stop()
					_ = c.Close()
				}()
				return
			}
			_ = c.Close()
		})
	}
	var both sync.WaitGroup
	both.Go(func() {
		_, err := c.ReadFrom(reader{s})
		if err == nil {
			err = c.CloseWrite()
		}
		if err != nil {
			fail(err)
		}
	})
	both.Go(func() {
		_, err := io.CopyBuffer(writer{s}, reader{c}, make([]byte, Size))
		if err == nil {
			err = s.CloseWrite()
			if errors.Is(err, syscall.ENOTCONN) {
				err = nil // the socket's other end is gone, and it is the other direction that tells how
			}
		}
		if err != nil {
			fail(err)
		}
	})
	both.Wait()
	if cause == nil {
		_ = s.Close()
		_ = c.Close()
	}
	return cause
}

// reader and writer hide the other methods, by which io.Copy would take a path of its own.
type reader struct{ io.Reader }
type writer struct{ io.Writer }

func reason(err error) string {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return "connection reset"
	}
	return err.Error()
}
