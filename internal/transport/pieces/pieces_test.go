package pieces

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestRoundTrip(t *testing.T) {
	for _, size := range []int{0, 1, joined, joined + 1, Max, Max + 1, 3*Max + 7} {
		data := bytes.Repeat([]byte("abcdefg"), size/7+1)[:size]
		var buf bytes.Buffer
		w := NewWriter(&buf)
		if n, err := w.Write(data); n != size || err != nil {
			t.Fatal(n, err)
		}
		if err := w.End([]byte("result")); err != nil {
			t.Fatal(err)
		}
		buf.WriteString("what follows")
		r := NewReader(&buf)
		got, err := io.ReadAll(iotest.OneByteReader(r))
		if err != nil || !bytes.Equal(got, data) || string(r.Result()) != "result" || buf.String() != "what follows" {
			t.Errorf("of %d bytes %d came back, result %q, %v", size, len(got), r.Result(), err)
		}
	}
	if err := NewWriter(io.Discard).End(make([]byte, MaxResult+1)); err == nil {
		t.Error("a result that no reader takes")
	}
}

func TestBroken(t *testing.T) {
	for _, s := range []string{"", "\x00", "\x00\x00\x00\x02a", "\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x02a", "\x00\x04\x00\x01", "\xff\xff\xff\xff", "\x00\x00\x00\x00\x00\x01\x00\x01",
		"\x80\x00\x00\x01", "\x40\x00\x00\x01", "\x40\x00\x00\x00"} {
		r := NewReader(bytes.NewReader([]byte(s)))
		_, err := io.Copy(io.Discard, r)
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%q: %v", s, err)
		}
		if _, again := r.Piece(nil); again == nil || again.Error() != err.Error() {
			t.Errorf("%q: first %v, then %v", s, err, again)
		}
	}
}

func FuzzReader(f *testing.F) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	_, _ = w.Write([]byte("abc"))
	_ = w.End([]byte("x"))
	f.Add(buf.Bytes(), true)
	f.Add([]byte("\x80\x10\x00\x00\x40\x00\x00\x04\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"), false)
	f.Fuzz(func(t *testing.T, data []byte, whole bool) {
		r := NewReader(bytes.NewReader(data))
		slots := &memory{}
		if !whole {
			r.Use(slots, func() error { return nil })
			r.Count(NewCredit(0))
		}
		total := 0
		var err error
		for err == nil {
			var p []byte
			if whole {
				p, err = r.Piece(p)
			} else {
				p = make([]byte, 10)
				var n int
				n, err = r.Read(p)
				p = p[:n]
			}
			total += len(p)
		}
		if total-slots.got > len(data) || len(r.Result()) > len(data) {
			t.Errorf("%d bytes and a result of %d were in %d", total, len(r.Result()), len(data))
		}
	})
}
