package guestrpc

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// waitLine waits until the client has a line for the next command, and returns it.
func waitLine(t *testing.T, c *Client) *line {
	t.Helper()
	for {
		c.lines.mu.Lock()
		making, idle := c.lines.making, c.lines.idle
		var returned chan struct{}
		for _, r := range c.lines.returning {
			returned = r
		}
		c.lines.mu.Unlock()
		switch {
		case len(idle) > 0:
			return idle[len(idle)-1]
		case making != nil:
			<-making
		case returned != nil:
			<-returned
		default:
			t.Fatal("there is no line, and none will be")
		}
	}
}

func runTrue(t *testing.T, c *Client) {
	t.Helper()
	x, err := c.Exec(t.Context(), ExecSpec{ID: "1", Argv: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for err == nil {
		_, err = x.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// counted is a client of g, and how many connections it has made.
func counted(t *testing.T, g *guest) (*Client, *atomic.Int64) {
	t.Helper()
	dial, dials := serve(t, g), new(atomic.Int64)
	c, err := Connect(t.Context(), func(ctx context.Context) (Conn, error) {
		dials.Add(1)
		return dial(ctx)
	}, Identity{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, dials
}

// trueThen is a guest's answer to a command that ends at once, and what it does when the host has no more to say.
func trueThen(end func() error) func(guestv1.Agent_ExecServer) error {
	return func(s guestv1.Agent_ExecServer) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		_ = s.Send(started)
		_ = s.Send(ended)
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			return err
		}
		return end()
	}
}

func TestLineIsUsedAgain(t *testing.T) {
	c, dials := counted(t, &guest{exec: trueThen(func() error { return nil })})
	for range 10 {
		runTrue(t, c)
		waitLine(t, c)
	}
	if n := dials.Load(); n != 2 {
		t.Errorf("%d connections for ten commands, not control and one line", n)
	}
	// One that has been lost meanwhile is not used.
	l := waitLine(t, c)
	_ = l.guard.Close()
	<-l.gone
	runTrue(t, c)
	waitLine(t, c)
	if n := dials.Load(); n != 3 {
		t.Errorf("%d connections after one was lost", n)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c.refill() // does nothing any more
	c.lines.mu.Lock()
	defer c.lines.mu.Unlock()
	if c.lines.idle != nil || c.lines.making != nil {
		t.Error("a closed client keeps a connection")
	}
}

// Guest agents of earlier versions end a command's stream with an error, and one line cannot serve twice.
func TestLineThatEndsBadly(t *testing.T) {
	c, dials := counted(t, &guest{exec: trueThen(func() error { return context.Canceled })})
	for range 3 {
		runTrue(t, c)
		waitLine(t, c)
	}
	if n := dials.Load(); n != 1+1+3 {
		t.Errorf("%d connections, not control, the first line, and one after each command", n)
	}
}

// A command that is cut short takes its line with it.
func TestLineOfACommandCutShort(t *testing.T) {
	c, dials := counted(t, &guest{exec: func(s guestv1.Agent_ExecServer) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		_ = s.Send(started)
		_, err := s.Recv()
		return err
	}})
	x, err := c.Exec(t.Context(), ExecSpec{ID: "1", Argv: []string{"sleep"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Recv(); err != nil {
		t.Error(err)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	<-x.line.gone
	if l := waitLine(t, c); l == x.line || dials.Load() != 3 {
		t.Errorf("%d connections", dials.Load())
	}
}

// Lines that are not used are closed, all but one.
func TestUnusedLines(t *testing.T) {
	c := &Client{dial: func(context.Context) (Conn, error) {
		host, guest := net.Pipe()
		t.Cleanup(func() { guest.Close() })
		return host, nil
	}, dead: make(chan struct{})}
	var all []*line
	for range 5 {
		l, err := c.newLine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
		c.lines.put(l)
	}
	c.lines.trim.Stop()
	c.lines.closeUnused()     // one was there before it was set
	l := c.lines.take()       // of four that are left
	another := c.lines.take() // leaves two that nobody took
	c.lines.put(another)
	c.lines.put(l)
	c.lines.trim.Stop()
	c.lines.closeUnused()
	if n := len(c.lines.idle); n != 3 {
		t.Errorf("%d lines are kept, not one of those that were not used and two that were", n)
	}
	c.lines.trim.Stop()
	c.lines.closeUnused()
	if n := len(c.lines.idle); n != 1 || c.lines.trim != nil {
		t.Errorf("%d lines are kept", n)
	}
	c.lines.end()
	for _, l := range all {
		<-l.gone
	}
}

// A guest that speaks on a line without a command loses it.
func TestLineSpokenOn(t *testing.T) {
	host, guest := net.Pipe()
	defer guest.Close()
	c := &Client{dial: func(context.Context) (Conn, error) { return host, nil }}
	l, err := c.newLine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(guest, "\x00\x00\x00\x00\x00\x00\x00\x01\x03\x00") }()
	<-l.gone
	if err := l.guard.broken(); err == nil || !strings.Contains(err.Error(), "nothing was asked on") || !l.lost() {
		t.Error(err)
	}
}
