package qemu

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"

	"github.com/agentkernel/agentkernel/internal/transport"
	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// tokenSize of the serial link, in bytes.
const tokenSize = 16

// session is what the link needs of package transport.
type session interface {
	Open(ctx context.Context, port uint32) (net.Conn, error)
	Done() <-chan struct{}
	Close() error
}

// dialSession begins a session on a connection, which it owns from then on.
type dialSession func(ctx context.Context, conn net.Conn, token [tokenSize]byte) (session, error)

func dialSerial(ctx context.Context, conn net.Conn, token [tokenSize]byte) (session, error) {
	s, err := transport.DialSerial(ctx, conn, token)
	if err != nil {
		return nil, err // not a typed nil
	}
	return s, nil
}

func takeUpSerial(conn net.Conn) (session, error) {
	s, err := transport.TakeUpSerial(conn)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// link is the serial port of a microVM, with at most one session at a time. A session that broke is followed by a new one
// when somebody dials.
type link struct {
	socket  string
	token   [tokenSize]byte
	begin   dialSession
	life    context.Context // ends with the VMM
	turn    chan struct{}   // holds one token: the right to use current
	current session
	ready   net.Conn // for the first session, when it was made before; belongs to who has the token
	begun   bool     // the guest has begun a session on ready
	unused  bool     // nobody has opened a stream of the current session, which was begun to be saved; belongs to who has the token
}

func newLink(life context.Context, socket string, token [tokenSize]byte, begin dialSession, ready net.Conn) *link {
	l := &link{socket: socket, token: token, begin: begin, life: life, turn: make(chan struct{}, 1), ready: ready}
	l.turn <- struct{}{}
	return l
}

// dial opens a stream to a port of the guest; it waits for the guest to answer until ctx ends or the VMM is gone.
func (l *link) dial(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.life, func() { cancel(context.Cause(l.life)) })()
	if err := l.take(ctx); err != nil {
		return nil, fmt.Errorf("connect to the guest: %w", err)
	}
	s, err := l.session(ctx)
	l.unused = false
	l.give()
	if err != nil {
		return nil, fmt.Errorf("connect to the guest: %w", err)
	}
	conn, err := s.Open(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of the guest: %w", port, err)
	}
	return conn, nil
}

// renew begins a session that nobody has used, in place of the one that there is, whose streams end.
func (l *link) renew(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.life, func() { cancel(context.Cause(l.life)) })()
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.give()
	if l.current != nil {
		_ = l.current.Close()
		l.current = nil
	}
	_, err := l.session(ctx)
	l.unused = err == nil
	return err
}

// hasUnused reports whether the guest has a session that can be taken up.
func (l *link) hasUnused(ctx context.Context) (bool, error) {
	if err := l.take(ctx); err != nil {
		return false, err
	}
	defer l.give()
	if !l.unused {
		return false, nil
	}
	select {
	case <-l.current.Done():
		return false, nil
	default:
		return true, nil
	}
}

// session returns the session, a new one if need be. The caller has the token.
func (l *link) session(ctx context.Context) (session, error) {
	if err := context.Cause(l.life); err != nil {
		return nil, err
	}
	if l.current != nil {
		select {
		case <-l.current.Done():
			_ = l.current.Close() // QEMU takes the next connection when this one is closed
			l.current = nil
		default:
			return l.current, nil
		}
	}
	conn := l.ready
	l.ready = nil
	var s session
	var err error
	switch {
	case conn != nil && l.begun:
		s, err = takeUpSerial(conn)
	case conn == nil:
		if conn, err = unixsock.Dial(ctx, l.socket); err != nil {
			return nil, err
		}
		fallthrough
	default:
		s, err = l.begin(ctx, conn, l.token)
	}
	if err != nil {
		return nil, err
	}
	l.current = s
	return s, nil
}

func (l *link) take(ctx context.Context) error {
	select {
	case <-l.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *link) give() { l.turn <- struct{}{} }

// close ends the session. It is called when life is over, so that no other session follows.
func (l *link) close() {
	<-l.turn
	defer l.give()
	if l.ready != nil {
		_ = l.ready.Close()
		l.ready = nil
	}
	if l.current != nil {
		_ = l.current.Close()
		l.current = nil
	}
}

func parseToken(s string) (token [tokenSize]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != tokenSize {
		return token, fmt.Errorf("the record's link token is not %d bytes in hex", tokenSize)
	}
	return [tokenSize]byte(b), nil
}
