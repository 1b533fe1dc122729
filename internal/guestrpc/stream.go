package guestrpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/transport/chunk"
)

// maxStreamAnswer bounds the answer to a request for a stream, in bytes.
const maxStreamAnswer = 64 << 10

// StreamError is why the guest does not do an operation.
type StreamError struct {
	Errno   syscall.Errno // Linux's number, on every host
	Message string        // the guest's, without control characters
}

func (e *StreamError) Error() string { return e.Message }

// OpenStream asks the guest on conn, a new connection to its port for streams, for an operation of
// api/guest/v1/stream.proto. ctx bounds the wait for the answer. Afterwards the connection's bytes are the operation's. When
// there is an error, which is a *StreamError when the guest has answered, conn is closed.
func OpenStream(ctx context.Context, conn net.Conn, req *guestv1.StreamRequest) (*chunk.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	resp, err := ask(conn, req)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open a stream to the guest: %w", err)
	}
	if resp.GetErrno() != 0 {
		_ = conn.Close()
		e := &StreamError{Errno: syscall.Errno(min(resp.GetErrno(), 4095)), Message: clean(resp.GetMessage())} // MAX_ERRNO of the kernel
		if e.Message == "" {
			e.Message = "the guest gave no reason"
		}
		return nil, e
	}
	_ = conn.SetDeadline(time.Time{})
	return chunk.New(conn), nil
}

func ask(conn net.Conn, req *guestv1.StreamRequest) (*guestv1.StreamResponse, error) {
	var b bytes.Buffer // in one write
	if _, err := protodelim.MarshalTo(&b, req); err != nil {
		return nil, err
	}
	if _, err := conn.Write(b.Bytes()); err != nil {
		return nil, err
	}
	resp := new(guestv1.StreamResponse)
	err := protodelim.UnmarshalOptions{MaxSize: maxStreamAnswer}.UnmarshalFrom(exactReader{conn}, resp)
	return resp, err
}

// exactReader reads no further than asked: what follows belongs to the operation.
type exactReader struct{ io.Reader }

func (r exactReader) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r.Reader, b[:])
	return b[0], err
}
