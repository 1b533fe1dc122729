package qemu

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// fakeSession is a session whose streams are pipes.
type fakeSession struct {
	conn net.Conn
	done chan struct{}
	once sync.Once
}

func (s *fakeSession) Open(context.Context, uint32) (net.Conn, error) {
	ours, theirs := net.Pipe()
	theirs.Close()
	return ours, nil
}

func (s *fakeSession) Done() <-chan struct{} { return s.done }

func (s *fakeSession) Close() error {
	s.once.Do(func() { close(s.done) })
	return s.conn.Close()
}

// testLink is a link to a socket that accepts and says nothing. Each session that begins is sent on began.
func testLink(t *testing.T, begin dialSession) (l *link, end context.CancelCauseFunc, began chan *fakeSession) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "link.sock")
	listener, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	began = make(chan *fakeSession, 10)
	if begin == nil {
		begin = func(_ context.Context, conn net.Conn, _ [tokenSize]byte) (session, error) {
			s := &fakeSession{conn: conn, done: make(chan struct{})}
			began <- s
			return s, nil
		}
	}
	life, end := context.WithCancelCause(context.Background())
	t.Cleanup(func() { end(nil) })
	return newLink(life, path, [tokenSize]byte{}, begin, nil), end, began
}

func dialOnce(t *testing.T, l *link) {
	t.Helper()
	conn, err := l.dial(t.Context(), 1024)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestLinkReconnects(t *testing.T) {
	l, end, began := testLink(t, nil)
	dialOnce(t, l)
	dialOnce(t, l)
	if len(began) != 1 {
		t.Fatalf("two dials began %d sessions, want one", len(began))
	}
	(<-began).Close()
	dialOnce(t, l)
	if len(began) != 1 {
		t.Errorf("no new session after the old one broke")
	}
	end(vmm.ErrEnded)
	l.close()
	if s := <-began; s.conn.Close() == nil {
		t.Error("close leaves the session's connection open")
	}
	if _, err := l.dial(t.Context(), 1024); !errors.Is(err, vmm.ErrEnded) {
		t.Errorf("%v, want that the microVM has ended", err)
	}
}

// A session that nobody has used is one that a restored guest goes on with: not after a dial, and not when it broke.
func TestLinkUnused(t *testing.T) {
	l, end, began := testLink(t, nil)
	unused := func(want bool) {
		t.Helper()
		if got, err := l.hasUnused(t.Context()); err != nil || got != want {
			t.Errorf("unused: %t, %v; want %t", got, err, want)
		}
	}
	renew := func() (s *fakeSession) {
		t.Helper()
		if err := l.renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		unused(true)
		return <-began
	}
	unused(false)
	dialOnce(t, l)
	old := <-began
	unused(false)
	first := renew()
	select {
	case <-old.Done():
	default:
		t.Error("the session before goes on")
	}
	dialOnce(t, l)
	unused(false)
	if len(began) != 0 {
		t.Error("a dial began another session")
	}
	first.Close()
	renew().Close()
	unused(false)
	end(vmm.ErrEnded)
	l.close()
}

// A guest that never answers holds nobody up beyond his context, or the end of the VMM.
func TestLinkSilentGuest(t *testing.T) {
	waiting := make(chan struct{}, 2)
	silent := func(ctx context.Context, conn net.Conn, _ [tokenSize]byte) (session, error) {
		waiting <- struct{}{}
		<-ctx.Done()
		conn.Close()
		return nil, context.Cause(ctx)
	}
	l, end, _ := testLink(t, silent)
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error), make(chan error)
	go func() { _, err := l.dial(ctx, 1); first <- err }()
	<-waiting
	go func() { _, err := l.dial(t.Context(), 1); second <- err }()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was cancelled", err)
	}
	<-waiting // the second one has taken over
	end(vmm.ErrEnded)
	if err := <-second; !errors.Is(err, vmm.ErrEnded) {
		t.Errorf("%v, want that the microVM has ended", err)
	}
	l.close()
}

func TestParseToken(t *testing.T) {
	if token, err := parseToken("000102030405060708090a0b0c0d0e0f"); err != nil || token[15] != 15 {
		t.Errorf("%v, %v", token, err)
	}
	for _, bad := range []string{"", "00", strings.Repeat("0", 33), strings.Repeat("g", 32)} {
		if _, err := parseToken(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
