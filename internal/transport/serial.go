package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/agentkernel/agentkernel/internal/transport/preamble"
	"github.com/agentkernel/agentkernel/internal/transport/yamuxconn"
)

// SerialPortName is the name of the virtio-serial port that the guest agent opens.
const SerialPortName = preamble.PortName

// maxLeftover bounds what may be left of an older session before the guest's answer, in bytes.
const maxLeftover = 64 << 20

var (
	// ErrSessionEnded is returned for streams of a session whose link broke or that was closed.
	ErrSessionEnded = errors.New("the link to the guest is broken")
	errLeftover     = fmt.Errorf("the guest sent %d MiB without an answer in it", maxLeftover>>20)
)

// Session is a serial link in use. Its methods may be called from any goroutine.
type Session struct {
	mux     *yamux.Session
	opening chan struct{} // holds one token while a stream is being opened
}

// DialSerial begins a session on conn, the host's end of the serial port of a guest that knows token. It waits for the
// guest's answer, and thereby for the guest to boot, until ctx ends. The session owns conn; when there is an error, conn is
// closed.
func DialSerial(ctx context.Context, conn net.Conn, token [preamble.TokenSize]byte) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	rest, err := shakeHands(conn, token)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("begin a session with the guest: %w", err)
	}
	return newSession(conn, rest)
}

// TakeUpSerial returns the session of a guest that was saved when DialSerial had begun one and nobody had used it, and that goes on from
// there. It owns conn, also when there is an error.
func TakeUpSerial(conn net.Conn) (*Session, error) { return newSession(conn, nil) }

func newSession(conn net.Conn, rest []byte) (*Session, error) {
	mux, err := yamux.Client(&muxConn{Conn: conn, guard: guard{r: conn, rest: rest}, joiner: yamuxconn.NewJoiner(conn)}, yamuxconn.Config(yamuxconn.Window))
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("begin a session with the guest: %w", err)
	}
	return &Session{mux: mux, opening: make(chan struct{}, 1)}, nil
}

func shakeHands(conn net.Conn, token preamble.Token) (rest []byte, err error) {
	var nonce preamble.Nonce
	_, _ = rand.Read(nonce[:]) // never fails: crypto/rand
	hello := preamble.Bytes(token, nonce)
	if _, err := conn.Write(hello); err != nil {
		return nil, err
	}
	return skipTo(conn, hello, maxLeftover)
}

// skipTo reads up to the end of needle and returns what came behind it in the same read. It gives up after limit bytes.
func skipTo(r io.Reader, needle []byte, limit int) (rest []byte, err error) {
	finder := preamble.NewFinder(needle)
	buf := make([]byte, 4096)
	for seen := 0; seen <= limit; {
		n, err := r.Read(buf)
		if i := finder.Find(buf[:n]); i >= 0 {
			return buf[i:n], nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		seen += n
	}
	return nil, errLeftover
}

// Open opens a stream to a port of the guest. When nothing listens there, the first Read returns an error. Close of the
// stream never blocks, and ends its Reads and Writes.
func (s *Session) Open(ctx context.Context, port uint32) (net.Conn, error) {
	select {
	case s.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("open a stream to the guest: %w", context.Cause(ctx))
	case <-s.Done():
		return nil, ErrSessionEnded
	}
	// The guest may not read, and then opening blocks. At most one goroutine is left to that: it keeps the token.
	type opened struct {
		stream *yamux.Stream
		err    error
	}
	result := make(chan opened, 1)
	go func() {
		defer func() { <-s.opening }()
		stream, err := s.mux.OpenStream()
		if err == nil {
			err = yamuxconn.WritePort(stream, port)
		}
		result <- opened{stream, err}
	}()
	select {
	case o := <-result:
		if o.err != nil {
			return nil, s.explain(o.err)
		}
		return newStream(s, o.stream), nil
	case <-ctx.Done():
		go func() {
			if o := <-result; o.stream != nil {
				_ = o.stream.Close()
			}
		}()
		return nil, fmt.Errorf("open a stream to the guest: %w", context.Cause(ctx))
	}
}

// Done is closed when the session has ended: the link broke, the guest broke the rules, or Close was called.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Close ends the session, its streams, and the connection below.
func (s *Session) Close() error { return s.mux.Close() }

func (s *Session) explain(err error) error {
	select {
	case <-s.Done():
		return ErrSessionEnded
	default:
		return err
	}
}

// muxConn is what yamux reads from and writes to.
type muxConn struct {
	net.Conn
	guard  guard
	joiner *yamuxconn.Joiner
}

func (c *muxConn) Read(p []byte) (int, error)  { return c.guard.Read(p) }
func (c *muxConn) Write(p []byte) (int, error) { return c.joiner.Write(p) }
