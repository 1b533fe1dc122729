package firecracker

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/hybridvsock"
	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// vsockDevice is a device whose guest accepts the requests that accepts says, which are numbered from 0.
func vsockDevice(t *testing.T, accepts func(files runtimeFiles, i int) bool) *link {
	t.Helper()
	files := runtimeFilesOf(sandbox.MachineSpec{RuntimeDir: t.TempDir()})
	if err := os.Mkdir(files.sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := unixsock.Listen(files.vsock)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := conn.Read(make([]byte, 32)); err == nil && accepts(files, i) {
				_, _ = io.WriteString(conn, "OK 5\n")
			}
			conn.Close()
		}
	}()
	k, err := newLink(t.Context(), files, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.close()
		l.Close()
		<-done
	})
	return k
}

func knock(t *testing.T, files runtimeFiles) {
	t.Helper()
	conn, err := unixsock.Dial(t.Context(), files.ready)
	if err != nil {
		t.Error(err)
		return
	}
	conn.Close()
}

func dialAndClose(t *testing.T, k *link) error {
	t.Helper()
	conn, err := k.dial(t.Context(), 1)
	if err == nil {
		conn.Close()
	}
	return err
}

// Once the guest has been reached, a refusal is one: unless it came so late that the guest was not asked to the end.
func TestRefused(t *testing.T) {
	k := vsockDevice(t, func(_ runtimeFiles, i int) bool { return i != 1 && i != 3 })
	if err := dialAndClose(t, k); err != nil {
		t.Fatal(err)
	}
	if err := dialAndClose(t, k); !errors.Is(err, hybridvsock.ErrRefused) {
		t.Errorf("%v, want that it is refused", err)
	}
	if err := dialAndClose(t, k); err != nil {
		t.Error(err)
	}
	k.slow = 0
	if err := dialAndClose(t, k); err != nil {
		t.Errorf("a slow guest is not asked again: %v", err)
	}
}

// A knock for no reason does no harm; several may wait for the one that counts, and all are let in.
func TestEverybodyIsLetIn(t *testing.T) {
	const waiting = 8
	k := vsockDevice(t, func(files runtimeFiles, i int) bool {
		if i == 0 || i == waiting {
			knock(t, files)
		}
		return i > waiting
	})
	errs := make(chan error)
	for range waiting {
		go func() { errs <- dialAndClose(t, k) }()
	}
	for range waiting {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	files := runtimeFilesOf(sandbox.MachineSpec{RuntimeDir: t.TempDir()})
	if err := os.Mkdir(files.sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	life, end := context.WithCancelCause(t.Context())
	k, err := newLink(life, files, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	go func() {
		_, err := k.dial(t.Context(), 1) // no socket is there yet
		errs <- err
	}()
	end(vmm.ErrEnded)
	if err := <-errs; !errors.Is(err, vmm.ErrEnded) {
		t.Errorf("%v, want that it has ended", err)
	}
	k.close()
	if _, err := net.Dial("unix", files.ready); err == nil {
		t.Error("it still listens")
	}
}

// What is remembered of connections does not grow with those that nobody has any more.
func TestLinkForgets(t *testing.T) {
	e, spec := newEngine(t, modeGood), newSpec(t)
	m := launch(t, e, spec)
	for range 5 * leastTidy {
		conn, err := m.Dial(t.Context(), sandbox.GuestAgentPort)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if len(m.link.open) == leastTidy {
			runtime.GC()
		}
	}
	if n := len(m.link.open); n > 3*leastTidy {
		t.Errorf("%d connections are remembered", n)
	}
}
