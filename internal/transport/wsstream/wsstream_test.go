package wsstream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/agentkernel/agentkernel/internal/transport/chunk"
	"github.com/agentkernel/agentkernel/internal/transport/wsstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sockets returns two ends of a WebSocket.
func sockets(t *testing.T) (a, b *websocket.Conn) {
	t.Helper()
	accepted := make(chan *websocket.Conn, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}))
	a, _, err := websocket.Dial(context.Background(), server.URL, nil) //nolint:bodyclose // there is none after an upgrade
	if err != nil {
		t.Fatal(err)
	}
	b = <-accepted
	t.Cleanup(func() { _ = a.CloseNow(); _ = b.CloseNow(); server.Close() })
	return a, b
}

func TestStream(t *testing.T) {
	one, two := sockets(t)
	a, b := wsstream.New(one), wsstream.New(two)
	question := bytes.Repeat([]byte("question"), 100000)
	sent := make(chan error, 1)
	go func() {
		_, err := a.Write(question)
		_, empty := a.Write(nil) // is no end
		sent <- errors.Join(err, empty, a.CloseWrite(), a.CloseWrite())
	}()
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, question) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if _, err := a.Write([]byte("x")); err == nil {
		t.Error("a write after the end succeeds")
	}
	if _, err := b.Write([]byte("half")); err != nil {
		t.Error(err)
	}
	broken := make(chan error, 1)
	go func() { broken <- b.Break("reset\n" + strings.Repeat("é", 200)) }()
	got, err := io.ReadAll(a)
	var why *chunk.BreakError
	if string(got) != "half" || !errors.As(err, &why) || !strings.HasPrefix(why.Reason, "reset é") {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-broken; err != nil {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	one, two := sockets(t)
	a, b := wsstream.New(one), wsstream.New(two)
	_ = a.Close()
	if _, err := b.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a stream that has not ended was closed, and Read says %v", err)
	}
}

func TestDeadline(t *testing.T) {
	one, two := sockets(t)
	a, b := wsstream.New(one), wsstream.New(two)
	defer b.Close()
	if err := a.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Read(make([]byte, 1)); err == nil {
		t.Error("a read outlives its deadline")
	}
	_ = a.Close()
}

func TestTextIsRefused(t *testing.T) {
	one, two := sockets(t)
	b := wsstream.New(two)
	defer b.Close()
	if err := one.Write(context.Background(), websocket.MessageText, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "text") {
		t.Errorf("a text message: %v", err)
	}
}
