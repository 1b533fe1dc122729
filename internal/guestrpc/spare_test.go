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

// waitSpare waits for the spare connection that is being made.
func waitSpare(t *testing.T, c *Client) *Exec {
	t.Helper()
	c.spare.mu.Lock()
	making := c.spare.making
	c.spare.mu.Unlock()
	if making != nil {
		<-making
	}
	c.spare.mu.Lock()
	defer c.spare.mu.Unlock()
	if c.spare.ready == nil {
		t.Fatal("no spare connection was made")
	}
	return c.spare.ready
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

func TestSpare(t *testing.T) {
	g := &guest{exec: func(s guestv1.Agent_ExecServer) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		_ = s.Send(started)
		_ = s.Send(ended)
		_, err := s.Recv() // until the host hangs up
		return err
	}}
	dial, dials := serve(t, g), atomic.Int64{}
	c, err := Connect(t.Context(), func(ctx context.Context) (Conn, error) {
		dials.Add(1)
		return dial(ctx)
	}, Identity{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	runTrue(t, c) // there was no command before it
	waitSpare(t, c)
	if n := dials.Load(); n != 3 {
		t.Errorf("%d connections after one command, not control, command and spare", n)
	}
	runTrue(t, c)
	waitSpare(t, c)
	if n := dials.Load(); n != 4 {
		t.Errorf("%d connections: the spare one was not used", n)
	}
	// One that has been lost meanwhile is not used.
	x := waitSpare(t, c)
	_ = x.guard.Close()
	<-x.gone
	runTrue(t, c)
	waitSpare(t, c)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	c.refill() // does nothing any more
	c.spare.mu.Lock()
	defer c.spare.mu.Unlock()
	if c.spare.ready != nil || c.spare.making != nil {
		t.Error("a closed client keeps a connection")
	}
}

// A guest that speaks on the spare connection loses it.
func TestSpareSpokenOn(t *testing.T) {
	host, guest := net.Pipe()
	defer guest.Close()
	c := &Client{dial: func(context.Context) (Conn, error) { return host, nil }}
	x, err := c.connectExec(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(guest, "\x00\x00\x00\x00\x00\x00\x00\x01\x03\x00") }()
	<-x.gone
	if err := x.guard.broken(); err == nil || !strings.Contains(err.Error(), "nothing was asked on") || !x.lost() {
		t.Error(err)
	}
}
