package stream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/forward"
	"github.com/agentkernel/agentkernel/internal/guest/stream"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/transport/chunk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// announced tells when it is first accepted from.
type announced struct {
	net.Listener
	accepting func()
}

func (l announced) Accept() (net.Conn, error) {
	l.accepting()
	return l.Listener.Accept()
}

// guest serves handlers on a unix socket, and returns what connects to it, when all that serves has started.
func guest(t *testing.T, handlers stream.Handlers) func() net.Conn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	accepting, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = handlers.Serve(context.Background(), announced{l, sync.OnceFunc(func() { close(accepting) })})
	}()
	<-accepting
	t.Cleanup(func() { l.Close(); <-done })
	return func() net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}

func forwardTo(network, address string) *guestv1.StreamRequest {
	return &guestv1.StreamRequest{Op: &guestv1.StreamRequest_Forward{Forward: &guestv1.Forward{Network: network, Address: address}}}
}

func TestForward(t *testing.T) {
	dial := guest(t, stream.Handlers{"forward": forward.Handle})
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := server.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		got, _ := io.ReadAll(c) // until the half-close
		_, _ = c.Write(bytes.ToUpper(got))
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := guestrpc.OpenStream(ctx, dial(), forwardTo("tcp", server.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "HELLO" {
		t.Errorf("%q, %v", got, err)
	}
	server.Close()
	for name, tc := range map[string]struct {
		req   *guestv1.StreamRequest
		errno syscall.Errno
	}{
		"nobody listens":  {forwardTo("tcp", server.Addr().String()), syscall.ECONNREFUSED},
		"no such socket":  {forwardTo("unix", "/nonexistent"), syscall.ENOENT},
		"a name":          {forwardTo("tcp", "localhost:80"), syscall.EINVAL},
		"a relative path": {forwardTo("unix", "x"), syscall.EINVAL},
		"unknown network": {forwardTo("udp", "127.0.0.1:1"), syscall.EINVAL},
		"no operation":    {&guestv1.StreamRequest{}, syscall.ENOSYS},
	} {
		_, err := guestrpc.OpenStream(ctx, dial(), tc.req)
		var refused *guestrpc.StreamError
		if !errors.As(err, &refused) || refused.Errno != tc.errno || refused.Message == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHandlerFails(t *testing.T) {
	dial := guest(t, stream.Handlers{"forward": func(_ context.Context, s *stream.Stream) error {
		c, err := s.Accept()
		if err != nil {
			return err
		}
		_, _ = c.Write([]byte("half"))
		return errors.New("the disk is full")
	}})
	c, err := guestrpc.OpenStream(context.Background(), dial(), forwardTo("tcp", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	var broken *chunk.BreakError
	if string(got) != "half" || !errors.As(err, &broken) || broken.Reason != "the disk is full" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestHostileAnswers has guests that do not answer as they should.
func TestHostileAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing": "", "endless varint": strings.Repeat("\xff", 100), "too large": "\xff\xff\xff\x7f", "not a message": "\x02\xff\xff", "cut": "\x05\x08",
	} {
		host, guest := net.Pipe()
		go func() {
			_, _ = guest.Read(make([]byte, 1024))
			_, _ = io.WriteString(guest, answer)
			_ = guest.Close()
		}()
		if _, err := guestrpc.OpenStream(context.Background(), host, forwardTo("tcp", "")); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	host, guest := net.Pipe() // one that does not answer at all
	defer guest.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		_, _ = guest.Read(make([]byte, 1024))
		cancel(errors.New("waited long enough"))
	}()
	if _, err := guestrpc.OpenStream(ctx, host, forwardTo("tcp", "")); err == nil || !strings.Contains(err.Error(), "waited long enough") {
		t.Errorf("a silent guest: %v", err)
	}
}
