package chunk

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a connection that reads from one buffer and writes to another.
type memory struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (m *memory) Read(p []byte) (int, error)  { return m.in.Read(p) }
func (m *memory) Write(p []byte) (int, error) { return m.out.Write(p) }
func (m *memory) Close() error                { return nil }

func TestRoundTrip(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 40000) // more than one chunk
	var m memory
	w := New(&m)
	if n, err := w.Write(data); n != len(data) || err != nil {
		t.Fatal(n, err)
	}
	if n, err := w.ReadFrom(bytes.NewReader(data)); n != int64(len(data)) || err != nil {
		t.Fatal(n, err)
	}
	if err := errors.Join(w.CloseWrite(), w.CloseWrite(), w.Break("too late")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a write after the end succeeds")
	}
	got, err := io.ReadAll(New(&memory{in: &m.out}))
	if err != nil || !bytes.Equal(got, append(data, data...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestRead(t *testing.T) {
	for name, tc := range map[string]struct {
		in, data, err string
	}{
		"empty":             {"", "", io.ErrUnexpectedEOF.Error()},
		"end":               {"\x00\x00\x00\x00after", "", ""},
		"data and end":      {"\x00\x00\x00\x02ab\x00\x00\x00\x01c\x00\x00\x00\x00", "abc", ""},
		"cut in a header":   {"\x00\x00\x00\x02ab\x00\x00", "ab", io.ErrUnexpectedEOF.Error()},
		"cut in a chunk":    {"\x7f\xff\xff\xffab", "ab", io.ErrUnexpectedEOF.Error()},
		"cut after a chunk": {"\x00\x00\x00\x02ab", "ab", io.ErrUnexpectedEOF.Error()},
		"break":             {"\x00\x00\x00\x01a\x80\x00\x00\x05no\x1b[m", "a", "no [m"},
		"break, no reason":  {"\x80\x00\x00\x00", "", ""},
		"reason too long":   {"\x80\x00\x04\x01" + strings.Repeat("x", 1025), "", "1025 bytes"},
		"reason cut":        {"\x80\x00\x00\x05no", "", io.ErrUnexpectedEOF.Error()},
	} {
		got, err := io.ReadAll(New(&memory{in: strings.NewReader(tc.in)}))
		if string(got) != tc.data {
			t.Errorf("%s: %q, want %q", name, got, tc.data)
		}
		var broken *BreakError
		if name == "break, no reason" {
			if !errors.As(err, &broken) {
				t.Errorf("%s: %v", name, err)
			}
		} else if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %v, want %q", name, err, tc.err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02ab\x00\x00\x00\x00"))
	f.Add([]byte("\x80\x00\x00\x02ab"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := io.ReadAll(New(&memory{in: bytes.NewReader(data)}))
		if len(got) > len(data) {
			t.Fatal("more came out than went in")
		}
		var w memory
		c := New(&w)
		_, _ = c.Write(got)
		if err == nil {
			_ = c.CloseWrite()
			again, err := io.ReadAll(New(&memory{in: &w.out}))
			if err != nil || !bytes.Equal(again, got) {
				t.Fatalf("%q became %q, %v", got, again, err)
			}
		}
	})
}
