// Package forward connects the host to servers in the guest.
package forward

import (
	"context"
	"fmt"
	"net"
	"path"
	"syscall"

	"github.com/agentkernel/agentkernel/internal/guest/stream"
	"github.com/agentkernel/agentkernel/internal/transport/chunk"
)

// Handle does the operation Forward.
func Handle(ctx context.Context, s *stream.Stream) error {
	req := s.Request.GetForward()
	switch network, address := req.GetNetwork(), req.GetAddress(); network {
	case "tcp":
		host, _, err := net.SplitHostPort(address)
		if err != nil || net.ParseIP(host) == nil {
			return fmt.Errorf("%q is not an IP address with a port: %w", address, syscall.EINVAL)
		}
	case "unix":
		if !path.IsAbs(address) {
			return fmt.Errorf("%q is not an absolute path: %w", address, syscall.EINVAL)
		}
	default:
		return fmt.Errorf("unknown network %q: %w", network, syscall.EINVAL)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, req.GetNetwork(), req.GetAddress())
	if err != nil {
		return err
	}
	socket := conn.(chunk.Socket) // TCP and unix sockets are
	c, err := s.Accept()
	if err != nil {
		_ = conn.Close()
		return err
	}
	return chunk.Join(c, socket)
}
