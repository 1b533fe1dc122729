package hostile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// TestHello starts guests that do not greet as they should.
func TestHello(t *testing.T) {
	lie := hello()
	lie.ReadyNs, lie.AgentBuild = -1, "\x1b[2J"
	late := hello() // its clock is so far off that it is set again, by Resume
	late.Capabilities = append(late.Capabilities, "clone")
	resumed := &guestv1.ResumeResponse{Items: []*guestv1.HygieneItem{{Name: "\x1b[2J"}}}
	for name, attack := range map[string]func(*guest){
		"huge frame":      onCallSays("Hello", bytes.Repeat([]byte{0xff}, 10)),
		"lies":            onCallSays("Hello", response(1, lie)),
		"another call":    onCallSays("Hello", response(3, hello())),
		"garbage":         onCallSays("Hello", response(1, hello())[3:]),
		"without end":     onCall("Hello", func(g *guest, c net.Conn) { g.floods(nil, frame(1, typeData, []byte("x")))(c) }),
		"silence":         onCall("Hello", (*guest).silent),
		"resume, lies":    onCallSays("Hello", append(response(1, late), response(3, resumed)...)),
		"resume, huge":    onCallSays("Hello", append(response(1, late), bytes.Repeat([]byte{0xff}, 10)...)),
		"resume, silence": onCallSays("Hello", response(1, late)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &guest{reached: make(chan struct{}, 100)}
			attack(g)
			d := newDaemon(t, g)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				_, err := d.Start(ctx, "evil", client.StartOptions{})
				ended <- err
			}()
			<-g.reached
			d.served(t)
			if strings.HasSuffix(name, "silence") {
				cancel()
			}
			if err := <-ended; err == nil {
				t.Error("it runs")
			}
			d.handled(t)
			d.served(t)
			if sb, err := d.Get(t.Context(), "evil"); err != nil || sb.State == apiv1.SandboxState(sandbox.Running) {
				t.Errorf("%+v, %v", sb, err)
			}
		})
	}
}

// TestStopStuck stops a sandbox whose guest has broken its control connection and does not make another one, while a command
// waits for that.
func TestStopStuck(t *testing.T) {
	g := &guest{reached: make(chan struct{}, 100)}
	var once sync.Once
	g.calls = map[string]func(net.Conn){"Hello": func(c net.Conn) {
		first := false
		once.Do(func() { first = true })
		if first {
			_, _ = c.Write(response(1, hello()))
			var b [1]byte
			_, _ = io.ReadFull(c, b[:]) // the next call
			_, _ = c.Write(bytes.Repeat([]byte{0xff}, 10))
			return
		}
		g.silent(c)
	}}
	d := newDaemon(t, g)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := d.Start(ctx, "evil", client.StartOptions{})
	check(t, err)
	if _, err := d.Execs(ctx, "evil"); err == nil {
		t.Error("a list from a guest that says nothing")
	}
	ended := make(chan error, parallel)
	for range parallel {
		go func() { ended <- command(ctx, d) }()
	}
	<-g.reached
	d.served(t)
	_, err = d.Stop(ctx, "evil", time.Millisecond)
	check(t, err)
	for range parallel {
		if err := <-ended; err == nil || ctx.Err() != nil {
			t.Errorf("%v, %v", err, context.Cause(ctx))
		}
	}
	d.handled(t)
}

// TestPublished has more clients than are allowed at a published port, behind which a guest floods and does not read.
func TestPublished(t *testing.T) {
	g := &guest{reached: make(chan struct{}, 1000)}
	streamFloods(accepted, chunk128)(g)
	port := 80
	d := newDaemon(t, g, apiv1.Port{GuestPort: &port})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sb, err := d.Start(ctx, "evil", client.StartOptions{})
	check(t, err)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa((*sb.Ports)[0].HostPort))
	before := heap()
	const clients, allowed = 300, 256
	var conns []net.Conn
	for i := range clients {
		c, err := net.Dial("tcp", address)
		if err != nil && i >= allowed {
			continue // it is reset at once
		}
		check(t, err)
		defer c.Close()
		conns = append(conns, c)
	}
	for range allowed {
		select {
		case <-g.reached:
		case <-ctx.Done():
			t.Fatal("not all connections are flooded")
		}
	}
	d.served(t)
	held := int64(heap()) - int64(before)
	t.Logf("%d KiB held by %d connections that nobody reads", held>>10, allowed)
	if held > maxHeap {
		t.Errorf("%d MiB are held, more than %d", held>>20, maxHeap>>20)
	}
	_, err = d.Stop(ctx, "evil", 0)
	check(t, err)
	for _, c := range conns {
		check(t, c.SetReadDeadline(time.Now().Add(patience)))
		_, err := io.Copy(io.Discard, c)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection outlives its sandbox")
		}
	}
}
