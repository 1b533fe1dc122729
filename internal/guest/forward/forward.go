// Package forward connects the host to servers in the guest.
package forward

import (
	"context"
	"fmt"
	"net"
	"path"
	"syscall"

	"github.com/agentkernel/agentkernel/internal/guest/stream"
	"github.com/agentkernel/agentkernel/internal/transport/duplex"
)

// loopback are the addresses that a server on the guest's loopback device may listen on.
var loopback = []string{"127.0.0.1", "::1"}

// Handle does the operation Forward.
func Handle(ctx context.Context, s *stream.Stream) error {
	addresses, err := targets(s.Request.GetForward().GetNetwork(), s.Request.GetForward().GetAddress())
	if err != nil {
		return err
	}
	server, err := dial(ctx, s.Request.GetForward().GetNetwork(), addresses)
	if err != nil {
		return err
	}
	c, err := s.Accept()
	if err != nil {
		_ = server.Close()
		return err
	}
	return duplex.Join(ctx, c, server)
}

// targets checks what the host asks for, and returns the addresses to try.
func targets(network, address string) ([]string, error) {
	switch network {
	case "tcp":
		host, port, err := net.SplitHostPort(address)
		if err == nil && host == "" {
			return []string{net.JoinHostPort(loopback[0], port), net.JoinHostPort(loopback[1], port)}, nil
		}
		if err != nil || net.ParseIP(host) == nil {
			return nil, fmt.Errorf("%q is not an IP address with a port: %w", address, syscall.EINVAL)
		}
	case "unix":
		if !path.IsAbs(address) {
			return nil, fmt.Errorf("%q is not an absolute path: %w", address, syscall.EINVAL)
		}
	default:
		return nil, fmt.Errorf("unknown network %q: %w", network, syscall.EINVAL)
	}
	return []string{address}, nil
}

// dial returns the first connection that can be made, or why the first one cannot.
func dial(ctx context.Context, network string, addresses []string) (duplex.Conn, error) {
	var d net.Dialer
	var first error
	for _, address := range addresses {
		conn, err := d.DialContext(ctx, network, address)
		if err == nil {
			return duplex.Socket(conn)
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
