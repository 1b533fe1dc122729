package manager

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"syscall"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/portforward"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/chunk"
	"github.com/agentkernel/agentkernel/internal/transport/duplex"
)

// maxConnections bounds the connections to servers in one sandbox that are open at once, published ports included.
const maxConnections = 256

// connection is a connection to a server in a guest.
type connection struct {
	*chunk.Conn
	b    *box
	once sync.Once
}

func (c *connection) Close() error {
	c.once.Do(c.b.hangUp)
	return c.Conn.Close()
}

func (b *box) pickUp() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.connections == maxConnections {
		return false
	}
	b.connections++
	return true
}

func (b *box) hangUp() {
	b.mu.Lock()
	b.connections--
	b.mu.Unlock()
}

// Dial connects to a server in a running sandbox. ctx bounds the attempt. The caller closes the connection.
func (m *Manager) Dial(ctx context.Context, name string, target sandbox.Target) (duplex.Conn, error) {
	if err := target.Validate(); err != nil {
		return nil, err
	}
	b, err := m.find(name)
	if err != nil {
		return nil, err
	}
	if !b.pickUp() {
		return nil, sandbox.Errorf(sandbox.Conflict, "close some", "sandbox %q has %d connections open, and cannot have more", name, maxConnections)
	}
	forward := &guestv1.Forward{Network: "tcp", Address: net.JoinHostPort("", strconv.Itoa(target.GuestPort))}
	if target.GuestSocket != "" {
		forward = &guestv1.Forward{Network: "unix", Address: target.GuestSocket}
	}
	conn, err := m.Stream(ctx, name, &guestv1.StreamRequest{Op: &guestv1.StreamRequest_Forward{Forward: forward}})
	if err != nil {
		b.hangUp()
		return nil, refused(name, target, err)
	}
	b.carried.connections.Add(1)
	return &connection{Conn: conn, b: b}, nil
}

// refused words why the guest does not connect.
func refused(name string, target sandbox.Target, err error) error {
	var e *guestrpc.StreamError
	if !errors.As(err, &e) {
		return err
	}
	what := "port " + target.String()
	if target.GuestSocket != "" {
		what = target.GuestSocket
	}
	switch e.Errno {
	case syscall.ECONNREFUSED, syscall.ENOENT:
		return sandbox.Errorf(sandbox.NotFound, "start the server, and have it listen on the guest's loopback or on all addresses", "nothing listens on %s in sandbox %q", what, name)
	case syscall.ENOSYS:
		return sandbox.Errorf(sandbox.Conflict, "restart it with agentkernel restart "+name, "the guest agent of sandbox %q is too old for this: %s", name, e.Message)
	}
	return sandbox.Errorf(sandbox.Failure, "", "connect to %s in sandbox %q: %w", what, name, err)
}

// publication is the listening sockets of a sandbox.
type publication struct {
	listeners []net.Listener
	cancel    context.CancelFunc
	served    sync.WaitGroup
}

// bind begins to listen on ports. Connections wait until serve.
func (m *Manager) bind(ctx context.Context, name string, ports []sandbox.Port) (p *publication, bindings []sandbox.Binding, err error) {
	p = new(publication)
	for _, port := range ports {
		l, err := m.listen(ctx, name, port)
		if err != nil {
			p.close()
			return nil, nil, err
		}
		p.listeners = append(p.listeners, l)
		port.HostPort = l.Addr().(*net.TCPAddr).Port // Listen listens on TCP
		bindings = append(bindings, sandbox.Binding{Port: port})
	}
	return p, bindings, nil
}

// rebind listens again on what a sandbox of an earlier daemon had. The sandbox runs on without what cannot be had, which
// the bindings then say.
func (m *Manager) rebind(ctx context.Context, b *box) (p *publication, bindings []sandbox.Binding) {
	rec := b.record()
	p = new(publication)
	for _, binding := range rec.Bindings {
		l, err := m.listen(ctx, rec.Spec.Name, binding.Port)
		binding.Error = ""
		if err != nil {
			binding.Error = err.Error()
			m.log.Error("publish a port again", "sandbox", rec.Spec.Name, "err", err)
		}
		p.listeners = append(p.listeners, l)
		bindings = append(bindings, binding)
	}
	b.mu.Lock()
	b.rec.Bindings = bindings // on disk with the next change
	b.mu.Unlock()
	return p, bindings
}

// listen says which sandbox has a port, when one has it.
func (m *Manager) listen(ctx context.Context, name string, port sandbox.Port) (net.Listener, error) {
	l, err := portforward.Listen(ctx, port.Address())
	if sandbox.KindOf(err) != sandbox.Exists {
		return l, err
	}
	records, _ := m.List()
	for _, rec := range records {
		for _, binding := range rec.Bindings {
			if rec.Spec.Name != name && rec.State.HasMachine() && binding.HostPort == port.HostPort {
				hint := "stop it with agentkernel stop " + rec.Spec.Name + ", or choose another port (0 takes one that is free)"
				return nil, sandbox.Errorf(sandbox.Exists, hint, "port %s of this host is in use: it leads to sandbox %q", port.Address(), rec.Spec.Name)
			}
		}
	}
	return nil, err
}

// serve carries connections from now on, until close.
func (p *publication) serve(m *Manager, b *box, bindings []sandbox.Binding) {
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(m.ctx)
	name := b.record().Spec.Name
	for i, l := range p.listeners {
		if l == nil {
			continue
		}
		target := bindings[i].Target
		log := m.log.With("sandbox", name, "port", l.Addr().String(), "guest", target.String())
		p.served.Go(func() {
			dial := func(ctx context.Context) (duplex.Conn, error) { return m.Dial(ctx, name, target) }
			if err := portforward.Serve(ctx, l, dial, func(err error) { log.Debug("a connection was broken", "err", err) }); err != nil {
				log.Error("the port is published no more", "err", err)
			}
		})
	}
	b.mu.Lock()
	b.published = p
	b.mu.Unlock()
}

// close ends the listening sockets and all their connections. It may be called on nil.
func (p *publication) close() {
	if p == nil {
		return
	}
	if p.cancel != nil { // it serves, and that closes the listeners
		p.cancel()
		p.served.Wait()
		return
	}
	for _, l := range p.listeners {
		if l != nil {
			_ = l.Close()
		}
	}
}

// unpublish ends what the sandbox publishes.
func (b *box) unpublish() {
	b.mu.Lock()
	p := b.published
	b.published = nil
	b.mu.Unlock()
	p.close()
}
