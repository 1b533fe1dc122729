package stream_test

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/agentkernel/agentkernel/internal/guest/stream"
)

// one is a listener with one connection.
type one struct{ conns chan net.Conn }

func (l one) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l one) Close() error   { return nil }
func (l one) Addr() net.Addr { return &net.UnixAddr{} }

// FuzzServe sends anything to the guest's end of streams. The operations only read.
func FuzzServe(f *testing.F) {
	f.Add([]byte("\x09\x0a\x07\x0a\x03tcp\x12\x00\x00\x00\x00\x01x\x00\x00\x00\x00"))
	f.Add([]byte("\x04\x12\x02\x32\x00"))
	f.Add([]byte("\xff\xff\xff\xff\x0f"))
	drain := func(_ context.Context, s *stream.Stream) error {
		c, err := s.Accept()
		if err == nil {
			_, err = io.Copy(io.Discard, c)
		}
		return err
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		host, guest := net.Pipe()
		l := one{make(chan net.Conn, 1)}
		l.conns <- guest
		close(l.conns)
		_ = stream.Handlers{"forward": drain, "files": drain}.Serve(context.Background(), l)
		heard := make(chan struct{})
		go func() { defer close(heard); _, _ = io.Copy(io.Discard, host) }()
		_, _ = host.Write(data)
		_ = host.Close()
		<-heard
	})
}
