package guestrpc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
)

// spareTimeout bounds how long a spare connection may take to be made.
const spareTimeout = 10 * time.Second

// spare keeps one connection ready for the next command. To make one costs the guest a third of what a short command does:
// so it is made when a command has ended, and not while the next one waits for it. The guest may send nothing on it before it
// is used.
type spare struct {
	mu     sync.Mutex
	ready  *Exec
	making chan struct{} // closed when the attempt that is under way has ended; nil when none is
	ended  bool
}

// connection returns a connection for a command.
func (c *Client) connection(ctx context.Context) (*Exec, error) {
	c.spare.mu.Lock()
	x := c.spare.ready
	c.spare.ready = nil
	c.spare.mu.Unlock()
	if x != nil && !x.lost() {
		return x, nil
	}
	if x != nil {
		_ = x.guard.Close()
	}
	return c.connectExec(ctx)
}

func (c *Client) connectExec(ctx context.Context) (*Exec, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the guest agent: %w", err)
	}
	x := &Exec{client: c, gone: make(chan struct{})}
	x.guard = &guard{Conn: conn, check: x.expect()}
	x.rpc = ttrpc.NewClient(x.guard, ttrpc.WithOnClose(sync.OnceFunc(func() { close(x.gone) })))
	return x, nil
}

// lost reports whether the connection is known to be broken.
func (x *Exec) lost() bool {
	select {
	case <-x.gone:
		return true
	default:
		return x.guard.broken() != nil
	}
}

// refill makes the spare connection in the background, unless there is one.
func (c *Client) refill() {
	c.spare.mu.Lock()
	defer c.spare.mu.Unlock()
	if c.spare.ready != nil || c.spare.making != nil || c.spare.ended {
		return
	}
	made := make(chan struct{})
	c.spare.making = made
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), spareTimeout)
		defer cancel()
		go func() {
			select {
			case <-c.dead:
				cancel()
			case <-ctx.Done():
			}
		}()
		x, err := c.connectExec(ctx)
		c.spare.mu.Lock()
		defer c.spare.mu.Unlock()
		c.spare.making = nil
		close(made)
		if err != nil {
			return // the next command makes its own, and tells
		}
		if c.spare.ended {
			_ = x.guard.Close()
			return
		}
		c.spare.ready = x
	}()
}

// dropSpare is for the end of the client.
func (c *Client) dropSpare() {
	c.spare.mu.Lock()
	x := c.spare.ready
	c.spare.ready, c.spare.ended = nil, true
	c.spare.mu.Unlock()
	if x != nil {
		_ = x.guard.Close()
	}
}
