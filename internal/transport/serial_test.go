package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/agentkernel/agentkernel/internal/transport/preamble"
	"github.com/agentkernel/agentkernel/internal/transport/yamuxconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var token = preamble.Token{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// limit is when a test that hangs gives up; nothing waits for it otherwise.
const limit = 20 * time.Second

// pair returns two ends of a unix socket, which holds bytes that are not read yet, as the link to a guest does.
func pair(t testing.TB) (host, guest net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if host, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if guest, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close(); guest.Close() })
	return host, guest
}

// answer does what an honest guest does first.
func answer(guest net.Conn) error {
	hello := make([]byte, preamble.Size)
	if _, err := io.ReadFull(guest, hello); err != nil {
		return err
	}
	_, err := guest.Write(hello)
	return err
}

func TestDialGivesUp(t *testing.T) {
	for name, guest := range map[string]func(net.Conn){
		"silent":      func(net.Conn) {},
		"gone":        func(c net.Conn) { c.Close() },
		"other nonce": func(c net.Conn) { c.Write(preamble.Bytes(token, preamble.Nonce{})) },
		"endless": func(c net.Conn) {
			for {
				if _, err := c.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			host, conn := pair(t)
			ended := make(chan struct{})
			go func() { defer close(ended); guest(conn) }()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			if name == "silent" || name == "other nonce" {
				cancel()
			}
			defer cancel()
			_, err := DialSerial(ctx, host, token)
			switch {
			case err == nil:
				t.Error("there is a session")
			case name == "endless" && !errors.Is(err, errLeftover), name == "gone" && errors.Is(err, context.DeadlineExceeded):
				t.Error(err)
			case (name == "silent" || name == "other nonce") && !errors.Is(err, context.Canceled):
				t.Error(err)
			}
			if _, err := host.Write([]byte{0}); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection is still open: %v", err)
			}
			<-ended
		})
	}
}

func frame(kind byte, flags uint16, stream, length uint32) []byte {
	b := []byte{0, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, length)
}

// TestHostileFrames sends what the guest may not send, and expects the session to end for it.
func TestHostileFrames(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"ping":         frame(yamuxconn.TypePing, yamuxconn.FlagSYN, 0, 1),
		"stream":       frame(yamuxconn.TypeWindow, yamuxconn.FlagSYN, 2, 0),
		"data stream":  frame(yamuxconn.TypeData, yamuxconn.FlagSYN, 2, 4),
		"huge":         frame(yamuxconn.TypeData, 0, 1, 1<<31),
		"other type":   frame(9, 0, 1, 0),
		"version":      append([]byte{1}, frame(0, 0, 1, 0)[1:]...),
		"beyond limit": append(frame(yamuxconn.TypeData, 0, 1, yamuxconn.Window), append(make([]byte, yamuxconn.Window), append(frame(yamuxconn.TypeData, 0, 1, 1), 0)...)...),
	} {
		t.Run(name, func(t *testing.T) {
			host, guest := pair(t)
			errs := make(chan error, 1)
			go func() { errs <- answer(guest) }()
			s, err := DialSerial(t.Context(), host, token)
			if err != nil || <-errs != nil {
				t.Fatal(err)
			}
			defer s.Close()
			stream, err := s.Open(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			guest.SetDeadline(time.Now().Add(limit))
			go guest.Write(bytes)
			<-s.Done()
			for err == nil { // what came before
				_, err = stream.Read(make([]byte, 4096))
			}
			if !errors.Is(err, ErrSessionEnded) {
				t.Errorf("read says %v", err)
			}
			if _, err := s.Open(t.Context(), 1); !errors.Is(err, ErrSessionEnded) {
				t.Errorf("open says %v", err)
			}
		})
	}
}

// TestGuestDoesNotRead checks that a guest that reads nothing holds up nobody who has a context or closes.
func TestGuestDoesNotRead(t *testing.T) {
	host, guest := pair(t)
	go answer(guest)
	s, err := DialSerial(t.Context(), host, token)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := s.Open(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	const writers = 20 // more than the socket holds
	var streams []net.Conn
	results := make(chan error, writers)
	for range writers {
		st, err := s.Open(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, st)
	}
	for _, st := range streams { // not before all are open: these fill the socket
		go func() {
			_, err := st.Write(make([]byte, yamuxconn.Window+1))
			results <- err
		}()
	}
	// Opening blocks once the socket is full.
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		c, err := s.Open(ctx, 1)
		cancel()
		if err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			break
		}
		streams = append(streams, c)
	}
	for _, st := range streams {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
	for range writers {
		if err := <-results; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write that was closed says %v", err)
		}
	}
	read := make(chan error)
	go func() {
		_, err := stream.Read(make([]byte, 1))
		read <- err
	}()
	stream.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that was closed says %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestSkipToBounds(t *testing.T) {
	needle := preamble.Bytes(token, preamble.Nonce{9})
	for _, before := range []int{0, 1, 4095, 4096, 10000} {
		stream := append(bytes.Repeat([]byte{1}, before), append(needle, "rest"...)...)
		rest, err := skipTo(bytes.NewReader(stream), needle, before+preamble.Size)
		if err != nil || string(rest) != "rest"[:min(len(rest), 4)] {
			t.Errorf("%d bytes before: %q, %v", before, rest, err)
		}
	}
	if _, err := skipTo(bytes.NewReader(make([]byte, 100000)), needle, 50000); !errors.Is(err, errLeftover) {
		t.Error(err)
	}
	if _, err := skipTo(bytes.NewReader(needle[:23]), needle, 50000); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// FuzzGuest lets a guest say anything after its answer. The session must end with the connection, and nothing may panic.
func FuzzGuest(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x03abc"))
	f.Add(append(frame(yamuxconn.TypeWindow, 2, 1, 0), frame(yamuxconn.TypeWindow, 4, 1, 0)...))
	f.Add(append(frame(yamuxconn.TypeWindow, 2, 1, 1<<32-1), frame(yamuxconn.TypeWindow, 8, 1, 1<<32-1)...))
	f.Add(frame(yamuxconn.TypeGoAway, 0, 0, 0))
	f.Add(bytes.Repeat(frame(yamuxconn.TypeWindow, 2, 1, 0), 3))
	f.Fuzz(func(t *testing.T, said []byte) {
		host, guest := net.Pipe()
		go func() {
			if answer(guest) != nil {
				return
			}
			ended := make(chan struct{})
			go func() { defer close(ended); io.Copy(io.Discard, guest) }()
			guest.Write(said)
			guest.Close()
			<-ended
		}()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		s, err := DialSerial(ctx, host, token)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := s.Open(ctx, 7)
		if err == nil {
			n, err := io.Copy(io.Discard, stream)
			if n > int64(len(said)) || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("read %d bytes of %d, %v", n, len(said), err)
			}
			stream.Close()
		}
		select {
		case <-s.Done():
		case <-ctx.Done():
			t.Error("the session outlives its connection")
		}
		s.Close()
	})
}

func ExampleSession_Open() {
	host, guest := net.Pipe()
	go answer(guest) // in a guest: guestlink.Serve
	s, err := DialSerial(context.Background(), host, token)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("there is a session")
	s.Close()
	guest.Close()
	// Output: there is a session
}
