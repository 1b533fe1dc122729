package unixsock

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path in a socket address, without the final NUL.
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

func address(path string) (addr string, done func(), err error) {
	path = plain(path)
	if len(path) > maxPath {
		return "", nil, fmt.Errorf("socket path %s has %d bytes, and macOS allows %d: set AGENTKERNEL_HOME to a shorter directory", path, len(path), maxPath)
	}
	return path, func() {}, nil
}

// ownerOnly refuses a directory that others can search: macOS makes a socket file by the umask alone, so until its mode is
// set only the directory keeps others out.
func ownerOnly(dir *os.File) func(string, string, syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error {
		info, err := dir.Stat()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			return fmt.Errorf("directory %s can be searched by others: its mode must be 0700", dir.Name())
		}
		return nil
	}
}

// Cred identifies the process at the other end of a connection, as it was when it connected.
type Cred struct {
	PID, UID, GID int
}

// PeerCred asks the kernel who is at the other end: LOCAL_PEERCRED and LOCAL_PEERPID.
func PeerCred(conn *net.UnixConn) (Cred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Cred{}, fmt.Errorf("ask for the peer: %w", err)
	}
	var cred *unix.Xucred
	var pid int
	cerr := raw.Control(func(fd uintptr) {
		if cred, err = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED); err == nil {
			pid, err = unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID)
		}
	})
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return Cred{}, fmt.Errorf("ask for the peer: %w", err)
	}
	return Cred{PID: pid, UID: int(cred.Uid), GID: int(cred.Groups[0])}, nil
}
