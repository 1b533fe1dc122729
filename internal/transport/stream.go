package transport

import (
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// stream is a yamux stream whose Close never blocks and ends its Reads and Writes at once, which yamux's own does not while
// the guest does not read. SetWriteDeadline counts only while the guest has no room for the stream's bytes.
type stream struct {
	*yamux.Stream
	session *Session

	writing sync.Mutex
	buf     []byte // belongs to the write that is under way

	closing sync.Once
	closed  chan struct{}
}

func newStream(s *Session, y *yamux.Stream) *stream {
	return &stream{Stream: y, session: s, closed: make(chan struct{})}
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if err == nil {
		return n, nil
	}
	select {
	case <-s.closed:
		return n, net.ErrClosed
	default:
	}
	return n, s.session.explain(err)
}

func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	default:
	}
	type written struct {
		n   int
		err error
	}
	// The bytes are copied, since the write may go on after this one has returned; then buf is not used again.
	s.buf = append(s.buf[:0], p...)
	buf, result := s.buf, make(chan written, 1)
	go func() {
		n, err := s.Stream.Write(buf)
		result <- written{n, err}
	}()
	select {
	case w := <-result:
		if w.err != nil {
			w.err = s.session.explain(w.err)
		} else if w.n < len(p) {
			w.err = io.ErrShortWrite
		}
		return w.n, w.err
	case <-s.closed:
		s.buf = nil
		return 0, net.ErrClosed
	}
}

func (s *stream) Close() error {
	s.closing.Do(func() {
		close(s.closed)
		_ = s.Stream.SetReadDeadline(time.Unix(1, 0))
		go func() { _ = s.Stream.Close() }() // ends when the guest reads, or with the session
	})
	return nil
}
