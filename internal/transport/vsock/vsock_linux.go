// Package vsock speaks AF_VSOCK inside the guest, with the host alone: vsock(7).
package vsock

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	device = "/dev/vsock"
	// What does not fit is refused, not held back: as many as Firecracker's muxer has connections.
	backlog = 1024
)

// Available reports whether this microVM has a vsock device: with none, the kernel knows no CID of its own.
func Available() bool {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	cid, err := unix.IoctlGetUint32(fd, unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
	return err == nil && cid > unix.VMADDR_CID_HOST && cid != unix.VMADDR_CID_ANY
}

// Knock connects to a port of the host and hangs up: an event for a host that listens for it. One that does not refuses, and
// that is an error like any other.
func Knock(port uint32) error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a vsock socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port}); err != nil {
		return fmt.Errorf("connect to vsock port %d of the host: %w", port, err)
	}
	return nil
}

type listener struct {
	file *os.File
	raw  syscall.RawConn
	port uint32
}

// Listen listens on a port. Connections that do not come from the host (CID 2) are closed unread. Its connections return
// io.EOF from Read whatever ended them.
func Listen(port uint32) (net.Listener, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make a vsock socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind vsock port %d: %w", port, err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, err)
	}
	file := os.NewFile(uintptr(fd), "vsock")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, err)
	}
	return &listener{file, raw, port}, nil
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		var fd int
		var peer unix.Sockaddr
		var err error
		wait := l.raw.Read(func(lfd uintptr) bool {
			fd, peer, err = unix.Accept4(int(lfd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !errors.Is(err, unix.EAGAIN)
		})
		switch {
		case wait != nil:
			return nil, fmt.Errorf("accept on vsock port %d: %w", l.port, wait)
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			return nil, err // a syscall.Errno: the server asks it whether it is temporary
		}
		if vm, ok := peer.(*unix.SockaddrVM); !ok || vm.CID != unix.VMADDR_CID_HOST {
			_ = unix.Close(fd)
			continue
		}
		return &conn{os.NewFile(uintptr(fd), "vsock"), addr{unix.VMADDR_CID_ANY, l.port}, addr{unix.VMADDR_CID_HOST, peer.(*unix.SockaddrVM).Port}}, nil
	}
}

func (l *listener) Close() error   { return l.file.Close() }
func (l *listener) Addr() net.Addr { return addr{unix.VMADDR_CID_ANY, l.port} }

type addr struct{ cid, port uint32 }

func (a addr) Network() string { return "vsock" }
func (a addr) String() string  { return fmt.Sprintf("%d:%d", a.cid, a.port) }

// conn is a connection from the host. net.FileConn knows no vsock, but a file has deadlines and polls all the same.
type conn struct {
	*os.File
	local, remote addr
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.File.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }
