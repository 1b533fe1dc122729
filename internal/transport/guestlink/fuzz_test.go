package guestlink

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/agentkernel/agentkernel/internal/transport/preamble"
)

// played is a port on which this has come, and that then fails.
type played struct{ *bytes.Reader }

func (played) Write(p []byte) (int, error)      { return len(p), nil }
func (played) SetWriteDeadline(time.Time) error { return nil }

// FuzzServe has anything come on the link, and at the end the beginnings of two sessions.
func FuzzServe(f *testing.F) {
	hello := preamble.Bytes(token, preamble.Nonce{1})
	f.Add(append(bytes.Clone(hello), "\x00\x01\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x04\x00\x00\x00\x07"...))
	f.Add(append(bytes.Clone(hello), "\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x07\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"...))
	f.Add(append(hello[:10:10], hello...))
	f.Fuzz(func(t *testing.T, data []byte) {
		var mux Mux
		l, err := mux.Listen(7)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(io.Discard, c)
					_ = c.Close()
				}()
			}
		}()
		all := bytes.Join([][]byte{data, hello, hello}, nil)
		if err := Serve(played{bytes.NewReader(all)}, token, &mux); err == nil {
			t.Error("the port has not failed")
		}
		_ = l.Close()
		<-ended
	})
}
