package guestlink

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/agentkernel/agentkernel/internal/transport"
	"github.com/agentkernel/agentkernel/internal/transport/preamble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var token = preamble.Token{0xa5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xa5}

// device is a virtio-serial port without a VMM: hosts come and go on it, and the guest's end is never told. What a host sent
// stays; what the guest sends while there is no host, or to one that goes, is lost.
type device struct {
	mu      sync.Mutex
	changed *sync.Cond
	in      []byte
	host    net.Conn // our end of it
	ended   bool
	expired bool // write deadline
}

func newDevice() *device {
	d := new(device)
	d.changed = sync.NewCond(&d.mu)
	return d
}

// connect puts another host in the place of the one before. With left >= 0, all but so many bytes of what the one before
// had sent and the guest has not read are lost.
func (d *device) connect(left int) net.Conn {
	host, ours := net.Pipe()
	d.mu.Lock()
	if d.host != nil {
		d.host.Close()
	}
	if left >= 0 {
		d.in = d.in[:min(left, len(d.in))]
	}
	d.host = ours
	d.changed.Broadcast()
	d.mu.Unlock()
	go func() {
		buf := make([]byte, 1000)
		for {
			n, err := ours.Read(buf)
			d.mu.Lock()
			if d.host == ours {
				d.in = append(d.in, buf[:n]...)
				d.changed.Broadcast()
			}
			d.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return host
}

func (d *device) Read(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.in) == 0 {
		if d.ended {
			return 0, io.EOF
		}
		d.changed.Wait()
	}
	n := copy(p[:min(len(p), 700)], d.in)
	d.in = d.in[n:]
	return n, nil
}

func (d *device) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		for d.host == nil && !d.expired {
			d.changed.Wait()
		}
		if d.expired {
			return 0, os.ErrDeadlineExceeded
		}
		host := d.host
		d.mu.Unlock()
		_, err := host.Write(p)
		d.mu.Lock()
		if err == nil {
			return len(p), nil
		}
		if d.host == host && !errors.Is(err, os.ErrDeadlineExceeded) { // gone: wait for the next, as a full queue does
			d.host = nil
		}
	}
}

func (d *device) SetWriteDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expired = !t.IsZero()
	if d.expired && d.host != nil { // ends a write to a host that does not read
		d.host.SetWriteDeadline(t)
	} else if d.host != nil {
		d.host.SetWriteDeadline(time.Time{})
	}
	d.changed.Broadcast()
	return nil
}

func (d *device) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	if d.host != nil {
		d.host.Close()
	}
	d.changed.Broadcast()
}

// guest serves an echo on port 7 until the test ends.
func guest(t *testing.T) *device {
	t.Helper()
	d, mux := newDevice(), new(Mux)
	l, err := mux.Listen(7)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mux.Listen(7); err == nil {
		t.Error("two listeners on one port")
	}
	served := make(chan error, 1)
	go func() { served <- Serve(d, token, mux) }()
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		d.end()
		if err := <-served; !errors.Is(err, io.EOF) {
			t.Errorf("serve ended with %v", err)
		}
		l.Close()
		conns.Wait()
	})
	return d
}

func dial(t *testing.T, conn net.Conn) *transport.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := transport.DialSerial(ctx, conn, token)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// echo sends n random bytes through the guest and checks what comes back.
func echo(s *transport.Session, n int) error {
	c, err := s.Open(context.Background(), 7)
	if err != nil {
		return err
	}
	defer c.Close()
	sent := make([]byte, n)
	rand.Read(sent)
	go c.Write(sent)
	got := make([]byte, n)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != string(sent) {
		return fmt.Errorf("%d bytes came back changed", n)
	}
	return nil
}

// TestTakeUp checks that another host goes on with a session that nobody has used, as after the restore of a guest that was saved then,
// and that a host that begins anew after that is served too.
func TestTakeUp(t *testing.T) {
	d := guest(t)
	first := dial(t, d.connect(-1))
	defer first.Close()
	second, err := transport.TakeUpSerial(d.connect(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	for range 2 {
		if err := echo(second, 100_000); err != nil {
			t.Fatal(err)
		}
	}
	third := dial(t, d.connect(-1))
	defer third.Close()
	if err := echo(third, 100_000); err != nil {
		t.Error(err)
	}
}

func TestUnknownPort(t *testing.T) {
	s := dial(t, guest(t).connect(-1))
	defer s.Close()
	c, err := s.Open(t.Context(), 8)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes from a port that nobody listens on", n)
	}
	if err := echo(s, 100); err != nil {
		t.Error(err)
	}
}

// TestReconnect cuts the link in the middle of traffic, again and again, loses some of what was under way and leaves some,
// and expects each session to be whole.
func TestReconnect(t *testing.T) {
	d := guest(t)
	for i := range 60 {
		conn := d.connect(i*37%1500 - 100)
		if i%5 == 4 { // a host that begins and dies at once, even within its preamble
			hello := preamble.Bytes(token, preamble.Nonce{byte(i)})
			conn.Write(hello[:1+i%24])
			conn.Close()
			continue
		}
		s := dial(t, conn)
		if err := echo(s, 10_000+i*1000); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
		var traffic sync.WaitGroup
		for range 3 {
			traffic.Go(func() {
				for echo(s, 300_000) == nil {
				}
			})
		}
		started := make(chan error, 1)
		go func() { started <- echo(s, 50_000) }()
		<-started
		conn.Close() // the host's process dies
		traffic.Wait()
		<-s.Done()
	}
}

// TestTakeover checks that a new host is served although the old one never left and reads nothing.
func TestTakeover(t *testing.T) {
	d := guest(t)
	old := d.connect(-1)
	nonce := preamble.Nonce{1}
	go old.Write(preamble.Bytes(token, nonce))
	if _, err := io.ReadFull(old, make([]byte, preamble.Size)); err != nil {
		t.Fatal(err)
	}
	// Open a stream by hand and have its echo fill the way back, which nobody reads.
	frame := func(kind byte, flags uint16, length uint32) []byte {
		b := binary.BigEndian.AppendUint16([]byte{0, kind}, flags)
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, 1), length)
	}
	if _, err := old.Write(append(frame(1, 1, 0), append(frame(0, 0, 9), 0, 0, 0, 7, 'h', 'e', 'l', 'l', 'o')...)); err != nil {
		t.Fatal(err)
	}
	s := dial(t, d.connect(-1))
	defer s.Close()
	if err := echo(s, 100_000); err != nil {
		t.Error(err)
	}
}
