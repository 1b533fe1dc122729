package hangup

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestContext has clients go away, and half away, from a server that does not read.
func TestContext(t *testing.T) {
	inner, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(inner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	pair := func() (client *net.UnixConn, server net.Conn, ctx context.Context) {
		t.Helper()
		c, err := net.Dial("unix", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(); s.Close() })
		return c.(*net.UnixConn), s, Context(t.Context(), s)
	}

	half, _, stays := pair()
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		client, _, ctx := pair()
		if _, err := client.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), ErrGone) {
			t.Error(context.Cause(ctx))
		}
	}
	_, server, ctx := pair()
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if stays.Err() != nil {
		t.Error("a client that has only ended its direction counts as gone")
	}
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if n := len(l.w.conns); n != 1 {
		t.Errorf("%d connections are watched still, want the half closed one", n)
	}
}
