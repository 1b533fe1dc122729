// Package hybridvsock is the host's end of the vsock device of Firecracker, whose host side is a unix socket: Firecracker's
// docs/vsock.md. The host connects to the socket, asks for a port of the guest, and after the answer the connection is a
// byte stream to whoever listens there:
//
//	host:  CONNECT <port of the guest>\n
//	VMM:   OK <port that the host's end has>\n
//
// When nobody listens the VMM hangs up without an answer. As long as the guest has no driver for the device there is neither.
// Whoever wants to know when it is worth the while to ask listens on the socket's path with "_<port>" appended: there
// arrive the connections that the guest makes to that port of the host.
package hybridvsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrRefused is returned when nobody in the guest listens on the port.
var ErrRefused = errors.New("nobody in the guest listens on this port")

// maxAnswer is the length of the longest answer, in bytes: "OK 4294967295\n".
const maxAnswer = 14

// HostPath is where the connections of the guest to a port of the host arrive, for the device with the socket path.
func HostPath(path string, port uint32) string { return fmt.Sprintf("%s_%d", path, port) }

// Connect asks on conn, a new connection to the device's socket, for a port of the guest, and waits for the answer until ctx
// ends. Then the next byte to be read from conn is the guest's first. When there is an error, conn is closed.
//
// The guest decides when the answer comes and what follows it, so no byte behind the answer is read here.
func Connect(ctx context.Context, conn net.Conn, port uint32) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := shakeHands(conn, port)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("connect to vsock port %d of the guest: %w", port, err)
	}
	return nil
}

func shakeHands(conn net.Conn, port uint32) error {
	// In one write: the VMM does not wait for the rest of a line.
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return refused(err)
	}
	line, err := readLine(conn)
	if err != nil {
		return refused(err)
	}
	number, ok := strings.CutPrefix(line, "OK ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return fmt.Errorf("the VMM answered %q", line)
	}
	return nil
}

// refused tells a VMM that hung up from other failures.
func refused(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return ErrRefused
	}
	return err
}

// readLine reads up to the end of a line and not a byte further.
func readLine(r io.Reader) (string, error) {
	line := make([]byte, 0, maxAnswer)
	for len(line) < maxAnswer {
		next := line[len(line) : len(line)+1]
		if _, err := io.ReadFull(r, next); err != nil {
			return "", err
		}
		if next[0] == '\n' {
			return string(line), nil
		}
		line = line[:len(line)+1]
	}
	return "", fmt.Errorf("the VMM answered %q and more", line)
}
