package pieces

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// memory is slots that both ends of a test reach.
type memory struct {
	slots [NumSlots][SlotSize]byte
	puts  int
	got   int
	full  bool
}

func (m *memory) Put(i int, p []byte) error {
	if m.full {
		return errors.New("full")
	}
	m.puts++
	copy(m.slots[i][:], p)
	return nil
}

func (m *memory) Get(i, offset, n int, p []byte) (int, error) {
	n = copy(p, m.slots[i][offset:n])
	m.got += n
	return n, nil
}

// TestSlots sends more than the slots hold at once, both with the reader that grants slots and with a writer that has them from
// the begin.
func TestSlots(t *testing.T) {
	data := make([]byte, 3*NumSlots*SlotSize+12345)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	for name, test := range map[string]struct {
		granted, at int // slots at the begin, and by the reader
		full        bool
		want        bool // whether slots are used
	}{
		"the writer's": {granted: NumSlots, want: true},
		"the reader's": {at: NumSlots, want: true},
		"none":         {},
		"full":         {granted: NumSlots, full: true},
	} {
		t.Run(name, func(t *testing.T) {
			here, there := net.Pipe()
			defer here.Close()
			defer there.Close()
			m := &memory{full: test.full}
			credit := NewCredit(test.granted)
			granted := make(chan struct{})
			back := NewReader(here)
			back.Count(credit)
			go func() {
				if test.at > 0 {
					if err := Free(there, test.at); err != nil {
						t.Error(err)
					}
				}
				close(granted)
			}()
			ended := make(chan error, 1)
			go func() { _, err := back.Piece(nil); ended <- err }()
			<-granted
			sent := make(chan error, 1)
			go func() {
				w := NewWriter(here)
				w.Use(m, credit)
				_, err := w.Write(data[:100])
				for rest := data[100:]; err == nil && len(rest) > 0; {
					n := min(len(rest), SlotSize+5)
					_, err = w.Write(rest[:n])
					rest = rest[n:]
				}
				sent <- errors.Join(err, w.End([]byte("result")))
			}()
			r := NewReader(there)
			r.Use(m, func() error { return Free(there, 1) })
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, data) || string(r.Result()) != "result" {
				t.Errorf("%d of %d bytes came, result %q, %v", len(got), len(data), r.Result(), err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			if used := m.puts > 0; used != test.want {
				t.Errorf("%d pieces went through slots", m.puts)
			}
			there.Close()
			if err := <-ended; err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the stream of what was freed ended with %v", err)
			}
		})
	}
}

func TestWriterDoesNotWaitForever(t *testing.T) {
	credit := NewCredit(1)
	w := NewWriter(io.Discard)
	w.Use(&memory{}, credit)
	done := make(chan error)
	go func() {
		_, err := w.Write(make([]byte, 3*SlotSize))
		done <- err
	}()
	credit.Close()
	credit.Close()
	if err := <-done; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a write that waits for a slot says %v", err)
	}
}

func TestHostileSlots(t *testing.T) {
	for name, test := range map[string][]byte{
		"empty": {0x80, 0, 0, 0}, "too long": {0x80, 0x10, 0, 1}, "too many free": {0x40, 0, 0, NumSlots + 1}, "far too many": {0x7f, 0xff, 0xff, 0xff},
	} {
		r := NewReader(bytes.NewReader(test))
		r.Use(&memory{}, func() error { return nil })
		r.Count(NewCredit(0))
		if n, err := io.Copy(io.Discard, r); err == nil || n > 0 {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}
