// Package stream serves the operations of api/guest/v1/stream.proto: one a connection. A package that does one registers a
// Handler under the name of its field in StreamRequest.
package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"google.golang.org/protobuf/encoding/protodelim"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/transport/chunk"
)

// maxRequest bounds a request, in bytes.
const maxRequest = 1 << 20

// Handler does one operation. An error that it returns before Accept is the answer to the host; one after it breaks the
// stream off, with its text as the reason. The connection is closed when the host has closed it, or for an error at once.
type Handler func(ctx context.Context, s *Stream) error

// Handlers are the operations, by the name of their field in StreamRequest.
type Handlers map[string]Handler

// Stream is a connection of the host.
type Stream struct {
	Request *guestv1.StreamRequest

	conn  net.Conn
	chunk *chunk.Conn
}

// Accept tells the host that the operation takes place. From then on both directions are chunks.
func (s *Stream) Accept() (*chunk.Conn, error) {
	if err := s.answer(&guestv1.StreamResponse{}); err != nil {
		return nil, err
	}
	s.chunk = chunk.New(s.conn)
	return s.chunk, nil
}

func (s *Stream) answer(resp *guestv1.StreamResponse) error {
	var b bytes.Buffer // in one write
	if _, err := protodelim.MarshalTo(&b, resp); err != nil {
		return fmt.Errorf("answer the host: %w", err)
	}
	if _, err := s.conn.Write(b.Bytes()); err != nil {
		return fmt.Errorf("answer the host: %w", err)
	}
	return nil
}

// Serve serves the listeners until one of them fails.
func (h Handlers) Serve(ctx context.Context, listeners ...net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					failed <- fmt.Errorf("serve streams on %s: %w", l.Addr(), err)
					return
				}
				go h.serve(ctx, conn)
			}
		}()
	}
	return <-failed
}

func (h Handlers) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	s := &Stream{Request: new(guestv1.StreamRequest), conn: conn}
	if err := (protodelim.UnmarshalOptions{MaxSize: maxRequest}).UnmarshalFrom(byteReader{conn}, s.Request); err != nil {
		return // the host went away, or is not one
	}
	err := h.dispatch(ctx, s)
	switch {
	case err == nil:
		_, _ = io.Copy(io.Discard, conn) // until the host has closed it
	case s.chunk != nil:
		_ = s.chunk.Break(err.Error())
		_, _ = io.Copy(io.Discard, conn)
	default:
		_ = s.answer(&guestv1.StreamResponse{Errno: uint32(errno(err)), Message: text(err)})
	}
}

func (h Handlers) dispatch(ctx context.Context, s *Stream) error {
	m := s.Request.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("op"))
	if field == nil {
		return fmt.Errorf("this guest agent does not know the operation: %w", syscall.ENOSYS)
	}
	handler := h[string(field.Name())]
	if handler == nil {
		return fmt.Errorf("this guest agent does not do %s: %w", field.Name(), syscall.ENOSYS)
	}
	return handler(ctx, s)
}

// maxText bounds what is told of an error, in bytes: it may have a path in it.
const maxText = 8 << 10

// text is what is told of an error: a path in it may be any bytes, and the host takes UTF-8.
func text(err error) string {
	s := err.Error()
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "\ufffd")
}

func errno(err error) syscall.Errno {
	var e syscall.Errno
	if errors.As(err, &e) && e != 0 {
		return e
	}
	return syscall.EIO
}

// byteReader reads no further than asked.
type byteReader struct{ io.Reader }

func (r byteReader) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r.Reader, b[:])
	return b[0], err
}
