package duplex_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"

	"github.com/agentkernel/agentkernel/internal/transport/chunk"
	"github.com/agentkernel/agentkernel/internal/transport/duplex"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sockets returns two ends of a TCP connection.
func sockets(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

// TestJoin has a client and a server that are connected over a stream, as a forwarded port is.
func TestJoin(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	setUp := func() (client, server *net.TCPConn, joined chan error) {
		client, host := sockets(t)
		server, guest := sockets(t)
		a, b := sockets(t)
		joined = make(chan error, 2)
		join := func(stream, s net.Conn) {
			conn, err := duplex.Socket(s)
			if err != nil {
				panic(err) // TCP can
			}
			joined <- duplex.Join(ctx, chunk.New(stream), conn)
		}
		go join(a, host)
		go join(b, guest)
		return client, server, joined
	}
	t.Run("half-close", func(t *testing.T) {
		client, server, joined := setUp()
		question := bytes.Repeat([]byte("question"), 100000)
		go func() {
			_, _ = client.Write(question)
			_ = client.CloseWrite()
		}()
		got, err := io.ReadAll(server)
		if err != nil || !bytes.Equal(got, question) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		_, _ = server.Write([]byte("answer"))
		_ = server.Close()
		if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
			t.Fatalf("%q, %v", got, err)
		}
		if err := errors.Join(<-joined, <-joined); err != nil {
			t.Error(err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		client, server, joined := setUp()
		_, _ = client.Write([]byte("x"))
		if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = server.SetLinger(0)
		_ = server.Close()
		if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("the client sees %v, not a reset", err)
		}
		for range 2 {
			if err := <-joined; err == nil {
				t.Error("a reset is no error")
			}
		}
	})
	t.Run("cancelled, with a server that does not read", func(t *testing.T) {
		client, _, joined := setUp()
		filled := make(chan error)
		go func() {
			_, err := io.Copy(client, zeros{})
			filled <- err
		}()
		cancel(errors.New("enough"))
		if err := <-joined; err == nil {
			t.Error("no error")
		}
		<-joined
		if err := <-filled; err == nil {
			t.Error("the client could write for ever")
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
