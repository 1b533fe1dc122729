// Package portforward listens on ports of the host and carries their connections to servers in a guest.
package portforward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/duplex"
)

// Dial connects to the server in the guest.
type Dial func(context.Context) (duplex.Conn, error)

// Listen listens on a TCP address of the host. Its errors are *sandbox.Error with what to do about it.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", address)
	_, port, _ := net.SplitHostPort(address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		hint := fmt.Sprintf("ss -ltnp 'sport = :%s' shows which program; stop it, or choose another port (0 takes one that is free)", port)
		return nil, sandbox.Errorf(sandbox.Exists, hint, "port %s of this host is in use", address)
	case errors.Is(err, syscall.EACCES):
		hint := "use a port from 1024 on; sysctl net.ipv4.ip_unprivileged_port_start sets where they begin"
		return nil, sandbox.Errorf(sandbox.Unavailable, hint, "port %s of this host is for root", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, sandbox.Errorf(sandbox.Invalid, "ip address shows this host's; 0.0.0.0 is all of them", "%s is no address of this host", address)
	}
	return nil, sandbox.Errorf(sandbox.Unavailable, "", "listen on %s: %w", address, err)
}

// Serve accepts connections of l and carries each to one of dial's, until ctx ends or l fails. Both are closed, with all
// connections, when it returns. A connection that cannot be carried on is reset, and report is told why, from any goroutine.
func Serve(ctx context.Context, l net.Listener, dial Dial, report func(error)) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var open sync.WaitGroup
	defer open.Wait()
	defer cancel()
	var pause backoff
	for {
		conn, err := l.Accept()
		if err != nil {
			again := pause.wait(ctx, err)
			if ctx.Err() != nil {
				return nil
			}
			err = fmt.Errorf("accept a connection on %s: %w", l.Addr(), err)
			if !again {
				_ = l.Close()
				return err
			}
			report(err)
			continue
		}
		pause = 0
		open.Go(func() {
			if err := carry(ctx, conn, dial); err != nil && ctx.Err() == nil {
				report(err)
			}
		})
	}
}

func carry(ctx context.Context, conn net.Conn, dial Dial) error {
	client, err := duplex.Socket(conn)
	if err != nil {
		_ = conn.Close()
		return err
	}
	server, err := dial(ctx)
	if err != nil {
		_ = client.Break("")
		return err
	}
	if err := duplex.Join(ctx, client, server); err != nil && !duplex.IsReset(err) { // a reset is news for the two ends alone
		return fmt.Errorf("connection from %s: %w", conn.RemoteAddr(), err)
	}
	return nil
}

// backoff is how long to wait before the next attempt, when descriptors or memory have run out: there is no event for their
// return.
type backoff time.Duration

// wait reports whether another attempt makes sense, and is to be made now.
func (b *backoff) wait(ctx context.Context, err error) bool {
	if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) && !errors.Is(err, syscall.ENOBUFS) && !errors.Is(err, syscall.ENOMEM) && !errors.Is(err, syscall.ECONNABORTED) {
		return false
	}
	*b = min(max(2**b, backoff(5*time.Millisecond)), backoff(time.Second))
	timer := time.NewTimer(time.Duration(*b))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
