// Package unixsock listens on and connects to unix sockets by path, with what the standard library leaves open: paths
// longer than a socket address holds (on Linux), a socket file that nobody but its owner could connect to at any moment,
// the replacement of a socket file that a dead process left behind, and the identity of the peer.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse is returned by Listen when somebody answers on the socket.
var ErrInUse = errors.New("another process listens on it")

// staleTimeout is how long Listen waits for an answer on a socket file that is there already. A live listener answers in
// microseconds: the kernel completes the connection for it.
const staleTimeout = time.Second

// Listener is a listening unix socket that knows its own file.
type Listener struct {
	*net.UnixListener
	path string
	ino  uint64 // of the file; a bound socket keeps its inode, so no other file has that number meanwhile
}

// Listen makes the socket file path with mode 0600 and listens on it. A socket file that is there already is replaced when
// nobody answers on it; else the error is ErrInUse. Anything else at path is left alone and is an error.
func Listen(path string) (*Listener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("open the socket's directory: %w", err)
	}
	defer dir.Close()
	// Two processes that find the same dead socket must not each remove what the other has just made.
	if err := flock(dir); err != nil {
		return nil, fmt.Errorf("lock the socket's directory: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	addr, done, err := address(path)
	if err != nil {
		return nil, err
	}
	defer done()
	conf := net.ListenConfig{Control: ownerOnly(dir)}
	l, err := conf.Listen(context.Background(), "unix", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, pathless(err))
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // it would use the address, which may be gone; Close below does it
	var st unix.Stat_t
	err = unix.Lstat(path, &st)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		ul.Close()
		return nil, fmt.Errorf("make the socket private: %w", err)
	}
	return &Listener{UnixListener: ul, path: path, ino: st.Ino}, nil
}

// Path of the socket file.
func (l *Listener) Path() string { return l.path }

// Close ends listening and removes the socket file, unless another one has taken its place.
func (l *Listener) Close() error {
	var st unix.Stat_t
	if unix.Lstat(l.path, &st) == nil && st.Ino == l.ino {
		_ = os.Remove(l.path) // gone already is as good
	}
	return l.UnixListener.Close()
}

// Detach gives up listening in this process and returns the listening socket, to be handed to a child. The socket file
// stays. The caller closes the returned file.
func (l *Listener) Detach() (*os.File, error) {
	f, err := l.File()
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("duplicate the listening socket: %w", err)
	}
	if err := l.UnixListener.Close(); err != nil {
		f.Close()
		return nil, fmt.Errorf("close the listener: %w", err)
	}
	return f, nil
}

// Dial connects to the socket file path. The returned connection is a *net.UnixConn.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	addr, done, err := address(path)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, pathless(err))
	}
	return conn, nil
}

// removeStale removes the socket file path if nobody answers on it.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is in the way: it is not a socket", path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), staleTimeout)
	defer cancel()
	conn, err := Dial(ctx, path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("listen on %s: %w", path, ErrInUse)
	case errors.Is(err, syscall.ECONNREFUSED):
	case errors.Is(err, os.ErrNotExist):
		return nil
	default: // e.g. its queue is full: somebody holds it
		return fmt.Errorf("listen on %s: %w (%w)", path, ErrInUse, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove an old socket: %w", err)
	}
	return nil
}

// plain makes a path one that the standard library does not take for an abstract name.
func plain(path string) string {
	if path != "" && path[0] == '@' {
		return "./" + path
	}
	return path
}

// pathless strips the address, which may be one that only this process understands, from an error of package net.
func pathless(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			return err
		}
	}
}
