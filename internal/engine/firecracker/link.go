package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
	"weak"

	"github.com/agentkernel/agentkernel/internal/engine/confine"
	"github.com/agentkernel/agentkernel/internal/transport/hybridvsock"
	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// link is the vsock device of a microVM. Until the guest has been reached for the first time it listens for the guest agent's
// knock, so that a dial that comes too early is repeated when there is a reason to, and not before.
type link struct {
	socket string
	pid    int             // of the VMM
	life   context.Context // ends with the VMM
	slow   time.Duration   // slowGuest

	mu       sync.Mutex
	listener *unixsock.Listener           // nil once the guest has been reached
	knocked  chan struct{}                // closed by the next knock, or when the guest is reached
	open     []weak.Pointer[net.UnixConn] // connections to the guest that may be in use, and some that are not
	tidyAt   int                          // when so many are there, those that nobody has any more are left out

	accepting chan struct{} // closed when nobody accepts any more
}

// newLink listens before anybody dials: a knock is never missed by a dial that was refused before it.
func newLink(life context.Context, files runtimeFiles, pid int) (*link, error) {
	l, err := unixsock.Listen(files.ready)
	if err == nil && os.Geteuid() == 0 {
		// For a VMM with a user of its own. It cannot put a file of its own in the place of this one: the directory is sticky.
		if err = errors.Join(os.Lchown(files.ready, -1, confine.FirstOwner), os.Chmod(files.ready, 0o660)); err != nil {
			l.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen for the guest agent: %w", err)
	}
	k := &link{socket: files.vsock, pid: pid, life: life, slow: slowGuest, listener: l, knocked: make(chan struct{}), accepting: make(chan struct{})}
	go k.accept(l)
	return k, nil
}

// deafLink does not listen.
func deafLink(life context.Context, files runtimeFiles, pid int) *link {
	k := &link{socket: files.vsock, pid: pid, life: life, slow: slowGuest, accepting: make(chan struct{})}
	close(k.accepting)
	return k
}

// accept hangs up on whoever knocks. Any program in the guest may; all that it brings about is a dial that is refused.
func (l *link) accept(from *unixsock.Listener) {
	defer close(l.accepting)
	for {
		conn, err := from.Accept()
		if err != nil {
			l.stopListening() // from now on a refused dial fails
			return
		}
		conn.Close()
		l.mu.Lock()
		if l.listener != nil {
			close(l.knocked)
			l.knocked = make(chan struct{})
		}
		l.mu.Unlock()
	}
}

// nextKnock is closed by the next knock. It is nil when there is none to wait for.
func (l *link) nextKnock() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener == nil {
		return nil
	}
	return l.knocked
}

func (l *link) stopListening() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener != nil {
		l.listener.Close()
		l.listener = nil
		close(l.knocked)
	}
}

// close ends the listening. Connections go on.
func (l *link) close() {
	l.stopListening()
	<-l.accepting
}

// slowGuest is when a refusal comes from Firecracker itself and not from the guest: it gives up on a guest that does not answer
// a request within 2 s (CONN_REQUEST_TIMEOUT_MS in its src/vmm/src/devices/virtio/vsock/csm), as one does that has more to do
// than its CPUs can, or that is paused.
const slowGuest = 1900 * time.Millisecond

// dial opens a stream to a port of the guest. The first one waits for the guest to listen; each waits for a guest that is slow.
// All end with ctx and with the VMM.
func (l *link) dial(ctx context.Context, port uint32) (net.Conn, error) {
	ctx, cancel := during(l.life, ctx)
	defer cancel()
	for {
		knock, asked := l.nextKnock(), time.Now()
		conn, err := l.connect(ctx, port)
		if err == nil {
			l.stopListening()
			l.remember(conn)
			return conn, nil
		}
		cause := context.Cause(l.life) // ctx learns of it a moment later
		if cause == nil {
			cause = context.Cause(ctx)
		}
		if cause != nil {
			return nil, fmt.Errorf("connect to port %d of the guest: %w", port, cause)
		}
		if errors.Is(err, hybridvsock.ErrRefused) && time.Since(asked) > l.slow {
			continue
		}
		if knock == nil || !tooEarly(err) {
			return nil, err
		}
		select {
		case <-knock:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the guest to listen: %w", context.Cause(ctx))
		}
	}
}

// leastTidy is the number of connections below which none is looked for that nobody has any more.
const leastTidy = 64

func (l *link) remember(conn *net.UnixConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= max(l.tidyAt, leastTidy) {
		l.open = slices.DeleteFunc(l.open, func(p weak.Pointer[net.UnixConn]) bool { return p.Value() == nil })
		l.tidyAt = 2 * len(l.open)
	}
	l.open = append(l.open, weak.Make(conn))
}

// reset closes all connections to the guest.
func (l *link) reset() {
	l.mu.Lock()
	open := l.open
	l.open, l.tidyAt = nil, 0
	l.mu.Unlock()
	for _, p := range open {
		if conn := p.Value(); conn != nil {
			conn.Close()
		}
	}
}

func (l *link) connect(ctx context.Context, port uint32) (*net.UnixConn, error) {
	conn, err := dialVMM(ctx, l.socket, l.pid)
	if err != nil {
		return nil, fmt.Errorf("connect to the guest: %w", err)
	}
	if err := hybridvsock.Connect(ctx, conn, port); err != nil {
		return nil, err
	}
	return conn, nil
}

// dialVMM connects to a socket of a VMM, and makes sure that it is the VMM that listens there: the sockets are in the one directory
// where a VMM can make files, and a link could lead us to the socket of somebody who trusts us.
func dialVMM(ctx context.Context, path string, pid int) (*net.UnixConn, error) {
	dialled, err := unixsock.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	conn := dialled.(*net.UnixConn)
	peer, err := unixsock.PeerCred(conn)
	if err == nil && peer.PID != pid {
		err = fmt.Errorf("process %d listens on %s, and not the VMM, which is process %d", peer.PID, path, pid)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// tooEarly: the guest does not listen yet, or Firecracker (when it is adopted) has not made its socket yet.
func tooEarly(err error) bool {
	return errors.Is(err, hybridvsock.ErrRefused) || errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// during is ctx, ended by the end of life too.
func during(life, ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if life.Err() != nil {
		cancel(context.Cause(life))
	}
	stop := context.AfterFunc(life, func() { cancel(context.Cause(life)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}
