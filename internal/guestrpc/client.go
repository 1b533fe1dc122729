package guestrpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// Identity is what a guest is told about itself.
type Identity struct {
	Hostname  string
	MachineID string // as sandbox.MachineID makes it
}

// ErrNoExec is returned by Signal when no command with this id runs.
var ErrNoExec = errors.New("no such command runs in the guest")

// Client is a control connection to a guest agent. Its methods may be called from any goroutine; calls go one after another.
// A call whose context ends closes the connection, since its answer could still come.
type Client struct {
	dial  func(context.Context) (Conn, error)
	guard *guard
	agent guestv1.AgentClient
	clone guestv1.CloneService
	info  Info

	calling chan struct{} // holds one token while a call is under way
	next    uint32        // stream of the next call; belongs to the caller with the token
	awaited atomic.Uint32 // stream whose answer is awaited; 0 for none

	once sync.Once
	dead chan struct{}

	lines lines
}

// Connect makes the control connection to a guest agent with dial, which is used again for each Exec, and says Hello: the
// guest gets its names and the time, unless it waits for Resume. It waits for the guest to answer until ctx ends.
func Connect(ctx context.Context, dial func(context.Context) (Conn, error), id Identity) (*Client, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the guest agent: %w", err)
	}
	c := &Client{dial: dial, next: 1, calling: make(chan struct{}, 1), dead: make(chan struct{})}
	c.guard = &guard{Conn: conn, check: c.expect}
	rpc := ttrpc.NewClient(c.guard, ttrpc.WithOnClose(c.markDead))
	c.agent, c.clone = guestv1.NewAgentClient(rpc), guestv1.NewCloneClient(rpc)
	var resp *guestv1.HelloResponse
	sent := time.Now()
	err = c.call(ctx, "greet the guest agent", func(ctx context.Context) (err error) {
		resp, err = c.agent.Hello(ctx, &guestv1.HelloRequest{Protocol: Protocol, Hostname: id.Hostname, MachineId: id.MachineID, UnixNano: sent.UnixNano()})
		return err
	})
	received := time.Now()
	if err == nil {
		if c.info, err = checkHello(resp); err != nil {
			err = fmt.Errorf("greet the guest agent: %w", err)
		}
	}
	if err == nil && c.info.Awaits == AwaitsNothing {
		off, offErr := measureClock(resp.GetClock(), sent, received)
		if slices.Contains(c.info.Capabilities, CloneCapability) {
			off, offErr, err = c.tune(ctx, off, offErr)
		}
		c.info.Hygiene = judge(c.info.Hygiene, off, offErr)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) markDead() { c.once.Do(func() { close(c.dead) }) }

// expect lets an answer pass only when it is awaited.
func (c *Client) expect(stream uint32, kind, _ byte) error {
	if kind != typeResponse {
		return fmt.Errorf("the guest sent a message of type %d on the control connection", kind)
	}
	if stream == 0 || !c.awaited.CompareAndSwap(stream, 0) {
		return errors.New("the guest sent an answer that nobody asked for")
	}
	return nil
}

// call makes one call. It returns when ctx ends, whatever the guest does.
func (c *Client) call(ctx context.Context, what string, f func(context.Context) error) error {
	select {
	case c.calling <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case <-c.dead:
		return fmt.Errorf("%s: %w", what, c.explain(ErrBroken))
	}
	defer func() { <-c.calling }()
	// The library numbers calls from 1 in steps of 2. A call's context would end it only while it waits for the answer, and
	// its answer would be logged when it came after that: so the connection ends the call.
	c.awaited.Store(c.next)
	c.next += 2
	stop := context.AfterFunc(ctx, func() { c.Close() })
	err := f(context.WithoutCancel(ctx))
	if !stop() {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, c.explain(err))
	}
	return nil
}

// explain replaces the library's word for a connection that broke by the reason.
func (c *Client) explain(err error) error { return explain(c.guard, err) }

func explain(g *guard, err error) error {
	if broken := g.broken(); broken != nil {
		return broken
	}
	if errors.Is(err, ttrpc.ErrClosed) {
		return ErrBroken
	}
	if st, ok := status.FromError(err); ok && st.Message() != "" {
		return errors.New("the guest agent answered: " + clean(st.Message()))
	}
	return err
}

// Info returns what the guest said of itself.
func (c *Client) Info() Info { return c.info }

// Alive reports whether the connection still stands, as far as is known.
func (c *Client) Alive() bool {
	select {
	case <-c.dead:
		return false
	default:
		return true
	}
}

// Ping returns when the guest agent has answered.
func (c *Client) Ping(ctx context.Context) error {
	return c.call(ctx, "ping the guest agent", func(ctx context.Context) error {
		_, err := c.agent.Ping(ctx, &guestv1.PingRequest{})
		return err
	})
}

// Signal sends a signal, 1 to 64 as Linux numbers them, to the process group of the Exec with this id. It returns ErrNoExec
// when that does not run.
func (c *Client) Signal(ctx context.Context, id string, signal uint32) error {
	gone := false
	err := c.call(ctx, "send a signal", func(ctx context.Context) error {
		_, err := c.agent.Signal(ctx, &guestv1.SignalRequest{Id: id, Signal: signal})
		if gone = status.Code(err) == codes.NotFound; gone {
			return nil
		}
		return err
	})
	if err == nil && gone {
		return ErrNoExec
	}
	return err
}

// Shutdown asks the guest to end: its processes get SIGTERM and, after grace, SIGKILL; the disks are written and the
// microVM is reset. It returns when the guest has agreed; the end of the VMM is the end of the shutdown.
func (c *Client) Shutdown(ctx context.Context, grace time.Duration) error {
	ms := uint32(min(max(grace.Milliseconds(), 0), math.MaxUint32))
	return c.call(ctx, "shut the guest down", func(ctx context.Context) error {
		_, err := c.agent.Shutdown(ctx, &guestv1.ShutdownRequest{GraceMs: ms})
		return err
	})
}

// Close closes the connection and ends calls that are under way. Commands that run have connections of their own.
func (c *Client) Close() error {
	c.markDead()
	c.lines.end()
	return c.guard.Close()
}
