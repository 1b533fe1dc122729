package manager

import (
	"context"
	"net"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/chunk"
)

// running is a sandbox whose guest agent can be talked to.
type running struct {
	b       *box
	machine sandbox.Machine
	guest   *guest
	watched <-chan struct{} // closed when the end of machine has been recorded
}

// dial opens a connection to a port of the guest. The sandbox is not idle before it is closed.
func (r running) dial(ctx context.Context, port uint32) (net.Conn, error) {
	done, err := r.b.use()
	if err != nil {
		return nil, err
	}
	conn, err := r.machine.Dial(ctx, port)
	if err != nil {
		done()
		return nil, err
	}
	return &usingConn{Conn: conn, done: done}, nil
}

type usingConn struct {
	net.Conn
	done func()
}

func (c *usingConn) Close() error {
	c.done()
	return c.Conn.Close()
}

// running finds a sandbox that runs. It waits for the adoption of a microVM when the daemon has just come back.
func (m *Manager) running(ctx context.Context, name string) (r running, err error) {
	b, err := m.find(name)
	if err != nil {
		return r, err
	}
	look := func() (state sandbox.State) {
		b.mu.Lock()
		defer b.mu.Unlock()
		r = running{b: b, machine: b.machine, guest: b.guest, watched: b.watched}
		return b.rec.State
	}
	state := look()
	if state == sandbox.Running && r.machine == nil {
		if err := b.acquire(ctx); err != nil {
			return r, err
		}
		b.release()
		state = look()
	}
	if state != sandbox.Running || r.guest == nil {
		if state == sandbox.Paused {
			return r, paused(name)
		}
		hint := "start it with agentkernel start " + name
		switch state {
		case sandbox.Suspended:
			hint = "resume it with agentkernel resume " + name
		case sandbox.Starting:
			hint = "wait until it runs"
		}
		return r, sandbox.Errorf(sandbox.Conflict, hint, "sandbox %q is %s, not running", name, state)
	}
	return r, nil
}

// Stream asks the guest of a running sandbox for an operation of api/guest/v1/stream.proto, whose bytes the returned
// connection carries. ctx bounds the beginning. The error is a *guestrpc.StreamError when the guest refuses.
func (m *Manager) Stream(ctx context.Context, name string, req *guestv1.StreamRequest) (*chunk.Conn, error) {
	r, err := m.running(ctx, name)
	if err != nil {
		return nil, err
	}
	conn, err := r.dial(ctx, sandbox.GuestStreamPort)
	if err != nil {
		return nil, sandbox.Errorf(sandbox.Failure, "", "reach sandbox %q: %w", name, err)
	}
	return guestrpc.OpenStream(ctx, conn, req)
}
