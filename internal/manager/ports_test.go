package manager

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// server echoes in capitals what its clients send until they have ended their direction.
func server(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				data, _ := io.ReadAll(c)
				_, _ = c.Write([]byte(strings.ToUpper(string(data))))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// ask sends a question to an address and returns the answer.
func ask(t *testing.T, address, question string) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, question); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	return string(answer), err
}

func (h *host) publishing(m *Manager, name string, ports ...sandbox.Port) {
	h.t.Helper()
	s := spec(name)
	s.Publish = ports
	if _, err := m.Create(context.Background(), s); err != nil {
		h.t.Fatal(err)
	}
}

func loopback(hostPort, guestPort int) sandbox.Port {
	return sandbox.Port{HostIP: sandbox.DefaultHostIP, HostPort: hostPort, Target: sandbox.Target{GuestPort: guestPort}}
}

// bound is where the first published port of a running sandbox is listened on.
func (h *host) bound(m *Manager, name string) sandbox.Binding {
	h.t.Helper()
	rec, err := m.Get(name)
	if err != nil || len(rec.Bindings) == 0 {
		h.t.Fatal(err, rec.Bindings)
	}
	return rec.Bindings[0]
}

func TestPublish(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	h.publishing(m, "a", loopback(0, server(t)))
	h.start(m, "a")
	address := h.bound(m, "a").Address()
	if got, err := ask(t, address, "hello"); got != "HELLO" || err != nil {
		t.Errorf("%q, %v", got, err)
	}

	// A connection is open while the daemon is replaced, and the next daemon listens on the same port.
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m.Close()
	if _, err := io.ReadAll(c); err == nil {
		t.Error("the connection ends as if the server had ended it")
	}
	if c := m.HostStats()[0].Traffic; c.Connections == 0 || c.Open != 0 || c.ToGuest != 5 || c.FromGuest != 5 {
		t.Errorf("%+v", c)
	}
	m = h.boot()
	if got, err := ask(t, address, "again"); got != "AGAIN" || err != nil {
		t.Errorf("after the adoption: %q, %v", got, err)
	}

	// Another sandbox cannot have the port, and says whose it is; what it was before, it stays.
	h.publishing(m, "b", loopback(h.bound(m, "a").HostPort, 80))
	if _, err := m.Start(context.Background(), "b", StartOptions{}); sandbox.KindOf(err) != sandbox.Exists || !strings.Contains(err.Error(), `sandbox "a"`) {
		t.Errorf("a port is given twice: %v", err)
	}
	h.expect(m, "b", sandbox.Created)

	if _, err := m.Stop(context.Background(), "a", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(t, address, "x"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a stopped sandbox's port: %v", err)
	}
	if rec, _ := m.Get("a"); rec.Bindings != nil {
		t.Errorf("it has the bindings %v", rec.Bindings)
	}
	h.start(m, "a")
	if got, err := ask(t, h.bound(m, "a").Address(), "third"); got != "THIRD" || err != nil {
		t.Errorf("after a restart: %q, %v", got, err)
	}
	if err := m.Remove(context.Background(), "a", true); err != nil {
		t.Fatal(err)
	}
	h.start(m, "b") // the port is free again
}

// A port that another program has taken while no daemon ran does not end the sandbox.
func TestPublishedPortIsTakenMeanwhile(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	h.publishing(m, "a", loopback(0, 80))
	h.start(m, "a")
	address := h.bound(m, "a").Address()
	m.Close()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m = h.boot()
	if _, err := m.Stream(context.Background(), "a", nil); err == nil { // waits for the adoption
		t.Error("a stream without a request is opened")
	}
	h.expect(m, "a", sandbox.Running)
	if b := h.bound(m, "a"); !strings.Contains(b.Error, "in use") {
		t.Errorf("the binding says %q", b.Error)
	}
}

func TestDialLimits(t *testing.T) {
	h := newHost(t)
	m := h.boot()
	h.create(m, "a")
	target := sandbox.Target{GuestPort: server(t)}
	if _, err := m.Dial(context.Background(), "a", target); sandbox.KindOf(err) != sandbox.Conflict {
		t.Errorf("a sandbox that does not run: %v", err)
	}
	h.start(m, "a")
	var open []io.Closer
	for range maxConnections {
		c, err := m.Dial(context.Background(), "a", target)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, err := m.Dial(context.Background(), "a", target); err == nil || !strings.Contains(err.Error(), "256 connections") {
		t.Errorf("one too many: %v", err)
	}
	for _, c := range open {
		c.Close()
		c.Close() // counts once
	}
	if c, err := m.Dial(context.Background(), "a", target); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	_, err := m.Dial(context.Background(), "a", sandbox.Target{GuestSocket: "/nonexistent"})
	if sandbox.KindOf(err) != sandbox.NotFound || !strings.Contains(err.Error(), "nothing listens") {
		t.Errorf("no such socket: %v", err)
	}
}
