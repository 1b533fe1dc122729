package exec

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pieceSize is how much output is read and sent at once, in bytes.
const pieceSize = 32 << 10

// discardSize is how much of the output that nobody wants is read at once, in bytes.
const discardSize = 4 << 10

// buffers are shared by all commands, so that one that says nothing holds none.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *[pieceSize]byte {
	if p, ok := b.pool.Get().(*[pieceSize]byte); ok {
		return p
	}
	return new([pieceSize]byte)
}

// output is a pipe or terminal that a command writes to.
type output struct {
	file     *os.File // nil when there is none
	terminal bool
	ended    atomic.Bool // the command has ended: what is in the pipe is to be taken, and no more
	eof      bool        // belongs to pump
}

// end is called when the command has ended. Processes that it left behind may hold the pipe open.
func (o *output) end() {
	o.ended.Store(true)
	_ = o.file.SetReadDeadline(time.Unix(1, 0))
}

// pump sends what comes through the pipe, until its end or, after the command's end, until what was in it then is sent. It
// waits for a credit before each read: without one, the command blocks in its own write.
func (o *output) pump(ctx context.Context, credit <-chan struct{}, pool *buffers, send func([]byte) error) error {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return err
	}
	left := -1 // bytes to be taken after the command's end; -1 before it
	for {
		select {
		case <-credit:
		case <-ctx.Done():
			return ctx.Err()
		}
		for sent := false; !sent; {
			if left < 0 && o.ended.Load() {
				if left, err = o.waiting(raw); err != nil {
					return err
				}
			}
			if left == 0 {
				o.eof = o.over(raw)
				return nil
			}
			buf, n, err := o.read(raw, pool, left)
			if errors.Is(err, os.ErrDeadlineExceeded) && left < 0 {
				continue
			}
			if err != nil || n == 0 {
				o.eof = err == nil
				return err
			}
			if left > 0 {
				left -= n
			}
			err = send(buf[:n])
			pool.pool.Put(buf)
			if err != nil {
				return err
			}
			sent = true
		}
	}
}

// read reads once; 0 bytes mean the end. With left < 0 it waits for data; else there are left bytes.
func (o *output) read(raw syscall.RawConn, pool *buffers, left int) (buf *[pieceSize]byte, n int, err error) {
	limit := pieceSize
	if left >= 0 {
		limit = min(limit, left)
	}
	try := func(fd uintptr) bool {
		buf = pool.get()
		for {
			if n, err = unix.Read(int(fd), buf[:limit]); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if err != nil || n == 0 {
			pool.pool.Put(buf)
		}
		return !errors.Is(err, unix.EAGAIN)
	}
	if left >= 0 {
		if wait := raw.Control(func(fd uintptr) { try(fd) }); wait != nil {
			return nil, 0, wait
		}
	} else if wait := raw.Read(try); wait != nil {
		return nil, 0, wait
	}
	// A terminal says so when nobody has its other side open any more, and when it has nothing for now.
	if o.terminal && (errors.Is(err, unix.EIO) || errors.Is(err, unix.EAGAIN)) {
		return nil, 0, nil
	}
	return buf, n, err
}

// waiting returns how many bytes are to be taken after the command's end. A terminal does not know: part of its output is
// on its way within the kernel, which a read waits for and FIONREAD does not. There it is a bound.
func (o *output) waiting(raw syscall.RawConn) (int, error) {
	if o.terminal {
		return terminalRest, nil
	}
	return inPipe(raw)
}

// over reports whether nobody has the other end of a pipe open any more. What it may read besides came after the command's end.
func (o *output) over(raw syscall.RawConn) (over bool) {
	if o.terminal {
		return false
	}
	wait := raw.Control(func(fd uintptr) {
		var late [1]byte
		n, err := unix.Read(int(fd), late[:])
		over = n == 0 && err == nil
	})
	return over && wait == nil
}

// inPipe returns how many bytes wait in a pipe: FIONREAD in pipe(7), which is TIOCINQ by its other name.
func inPipe(raw syscall.RawConn) (n int, err error) {
	if wait := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); wait != nil {
		return 0, wait
	}
	return n, err
}

// leave closes the pipe, at once when it has ended, else when those who hold its other end have closed it. A terminal is
// closed at once: it is gone.
func (o *output) leave() {
	if o.eof || o.terminal || o.file.SetReadDeadline(time.Time{}) != nil {
		_ = o.file.Close()
		return
	}
	go o.discard()
}

// discard takes what processes that the command left behind still write, so that they do not die of SIGPIPE.
func (o *output) discard() {
	defer o.file.Close()
	var buf [discardSize]byte
	for {
		if _, err := o.file.Read(buf[:]); err != nil {
			return
		}
	}
}
