package guestrpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// said is a connection to a guest that says this, whatever it is asked, and hangs up.
func said(t *testing.T, data []byte) net.Conn {
	host, guest := net.Pipe()
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = io.Copy(io.Discard, guest) }()
	go func() {
		_, _ = guest.Write(data)
		_ = guest.Close()
	}()
	t.Cleanup(func() { host.Close(); <-ended })
	return host
}

// FuzzControl lets a guest say anything on a control connection and on those of statistics; nothing may panic or hang.
func FuzzControl(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00"))
	f.Add([]byte("\x00\x00\x00\x06\x00\x00\x00\x01\x02\x00\x0a\x00\x12\x02\x08\x01\x00\x00\x00\x06\x00\x00\x00\x03\x02\x00\x0a\x00\x12\x02\x10\x01"))
	f.Add([]byte("\x00\x00\x00\x06\x00\x00\x00\x01\x03\x00\x0a\x04\x08\x01\x18\x01"))
	f.Add(controlAnswers(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		dial := func(context.Context) (Conn, error) { return said(t, data), nil }
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if c, err := Connect(ctx, dial, Identity{}); err == nil {
			if list, err := c.List(ctx); err == nil && len(list) > maxListed+maxPage {
				t.Errorf("%d commands", len(list))
			}
			_ = c.Signal(ctx, "x", 15)
			_ = c.Prepare(ctx, time.Second, false)
			items, err := c.Resume(ctx, ResumeSpec{Kind: ResumeCopy})
			if err == nil && len(items) > maxItems+1 {
				t.Errorf("%d items", len(items))
			}
			_ = c.Close()
		}
		_, _ = Sample(ctx, dial)
		_ = Watch(ctx, dial, func(k OOMKill) {
			if k.Count < 1 {
				t.Errorf("%+v", k)
			}
			cancel() // one is enough: more of them come at their pace
		})
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Error("hangs")
		}
	})
}

// controlAnswers are those of a good guest to the calls of FuzzControl.
func controlAnswers(f *testing.F) (all []byte) {
	answers := []proto.Message{
		goodHello(), &guestv1.ListResponse{}, &guestv1.SignalResponse{}, &guestv1.PrepareResponse{},
		&guestv1.ResumeResponse{Items: []*guestv1.HygieneItem{{Name: "clock", Result: guestv1.HygieneItem_PASS}}, Clock: &guestv1.Clock{UnixNano: 1}},
	}
	for i, m := range answers {
		payload, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		body, err := proto.Marshal(&ttrpc.Response{Payload: payload})
		if err != nil {
			f.Fatal(err)
		}
		all = binary.BigEndian.AppendUint32(all, uint32(len(body)))
		all = append(binary.BigEndian.AppendUint32(all, uint32(2*i+1)), typeResponse, 0)
		all = append(all, body...)
	}
	return all
}

// FuzzStream lets a guest answer anything to a request for a stream, and what follows be read.
func FuzzStream(f *testing.F) {
	for _, m := range []*guestv1.StreamResponse{{}, {Errno: 2, Message: "no"}} {
		var b bytes.Buffer
		if _, err := protodelim.MarshalTo(&b, m); err != nil {
			f.Fatal(err)
		}
		f.Add(append(b.Bytes(), 0, 0, 0, 1, 'x', 0, 0, 0, 0))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c, err := OpenStream(ctx, said(t, data), &guestv1.StreamRequest{})
		if err == nil {
			n, _ := io.Copy(io.Discard, c)
			if n > int64(len(data)) {
				t.Errorf("%d bytes of %d", n, len(data))
			}
			_ = c.Close()
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Error("hangs")
		}
	})
}
