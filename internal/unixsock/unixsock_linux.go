package unixsock

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path in a socket address, without the final NUL: unix(7).
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// address returns what to give to package net for path, and a function to call when it has been used. A path that is too
// long is reached through a descriptor of its directory.
func address(path string) (addr string, done func(), err error) {
	path = plain(path)
	if len(path) <= maxPath {
		return path, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("open the directory of %s: %w", path, err)
	}
	addr = "/proc/self/fd/" + strconv.Itoa(fd) + "/" + filepath.Base(path)
	if len(addr) > maxPath {
		unix.Close(fd)
		return "", nil, fmt.Errorf("the name of socket %s is longer than a socket address holds", path)
	}
	return addr, func() { unix.Close(fd) }, nil
}

// ownerOnly sets the mode that the socket file will be made with: bind takes it from the socket's inode, less the umask.
func ownerOnly(*os.File) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); cerr != nil {
			return cerr
		}
		return err
	}
}

// Cred identifies the process at the other end of a connection, as it was when it connected (or began to listen).
type Cred struct {
	PID, UID, GID int
}

// PeerCred asks the kernel who is at the other end: SO_PEERCRED, unix(7).
func PeerCred(conn *net.UnixConn) (Cred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Cred{}, fmt.Errorf("ask for the peer: %w", err)
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return Cred{}, fmt.Errorf("ask for the peer: %w", err)
	}
	return Cred{PID: int(cred.Pid), UID: int(cred.Uid), GID: int(cred.Gid)}, nil
}
