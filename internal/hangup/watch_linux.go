package hangup

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// watcher waits for the ends of connections. Its epoll instance is itself waited for by the runtime's poller.
type watcher struct {
	file *os.File
	fd   int
	done chan struct{}

	mu     sync.Mutex
	closed bool
	last   int64
	conns  map[int64]func()
}

func newWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that os.NewFile has it polled
	}
	if err != nil {
		return nil, fmt.Errorf("watch for clients that go away: %w", err)
	}
	w := &watcher{file: os.NewFile(uintptr(fd), "epoll"), fd: fd, done: make(chan struct{}), conns: map[int64]func(){}}
	raw, err := w.file.SyscallConn()
	if err != nil {
		_ = w.file.Close()
		return nil, fmt.Errorf("watch for clients that go away: %w", err)
	}
	go w.run(raw)
	return w, nil
}

// add calls gone once when the other end of c is closed. Without forget, that may be after c is closed.
func (w *watcher) add(c *net.UnixConn, gone func()) (forget func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return func() {}
	}
	w.last++
	id := w.last
	raw, err := c.SyscallConn()
	if err == nil {
		event := unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: int32(id), Pad: int32(id >> 32)} // EPOLLHUP need not be asked for
		control := func(fd uintptr) { err = unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, int(fd), &event) }
		if e := raw.Control(control); e != nil {
			err = e
		}
	}
	if err != nil {
		return func() {}
	}
	w.conns[id] = gone
	return func() { w.take(id) } // the kernel forgets what is closed by itself
}

func (w *watcher) take(id int64) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	gone := w.conns[id]
	delete(w.conns, id)
	return gone
}

func (w *watcher) run(raw syscall.RawConn) {
	defer close(w.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
		})
		if err != nil || n < 0 {
			return // closed
		}
		for _, e := range events[:n] {
			if gone := w.take(int64(uint32(e.Fd)) | int64(e.Pad)<<32); gone != nil {
				gone()
			}
		}
	}
}

func (w *watcher) close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	err := w.file.Close() // ends run
	<-w.done
	return err
}
