// Package virtioport opens a virtio-serial port from inside the guest.
//
// Facts from Linux, drivers/char/virtio_console.c: a read returns 0 while the host is not connected and nothing is left to
// read, and EAGAIN while it is connected and has sent nothing; a write takes at most 32 KiB, returns EAGAIN while the host
// is not connected or its queue is full, and 0 when it found the queue full too late; each change wakes whoever polls. Go's
// poller is edge-triggered, so that waiting for the next change costs nothing, even though a port without a host is always
// "ready" by its level.
package virtioport

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Sizes in bytes of what one write passes to the driver.
const (
	maxWrite = 32 << 10
	minWrite = 4 << 10 // is always found in one piece
)

// Port is an open virtio-serial port. It may be read by one goroutine and written to by another.
type Port struct {
	file *os.File
	raw  syscall.RawConn
}

// Open opens the port called name; sysfs is where sysfs is mounted, dev where devtmpfs is. The error is os.ErrNotExist when
// the microVM has no port of this name.
func Open(sysfs, dev, name string) (*Port, error) {
	class := filepath.Join(sysfs, "class/virtio-ports")
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, fmt.Errorf("look for virtio-serial ports: %w", err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(class, e.Name(), "name"))
		if err != nil || strings.TrimSpace(string(text)) != name {
			continue
		}
		return openDevice(filepath.Join(dev, e.Name()))
	}
	return nil, fmt.Errorf("find the virtio-serial port %s: %w", name, os.ErrNotExist)
}

func openDevice(path string) (*Port, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("poll %s: %w", path, err)
	}
	return &Port{file, raw}, nil
}

// Read waits until the host has sent something. It never returns 0 without an error.
func (p *Port) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	var n int
	var err error
	wait := p.raw.Read(func(fd uintptr) bool {
		n, err = retry(func() (int, error) { return unix.Read(int(fd), b) })
		return n > 0 || err != nil && !errors.Is(err, unix.EAGAIN)
	})
	return result(n, err, wait, "read", p.file.Name())
}

// Write waits until the host has room for all of b, or the write deadline is over.
func (p *Port) Write(b []byte) (int, error) {
	total, size := 0, maxWrite
	for total < len(b) {
		var n int
		var err error
		wait := p.raw.Write(func(fd uintptr) bool {
			n, err = retry(func() (int, error) { return unix.Write(int(fd), b[total:min(len(b), total+size)]) })
			return n > 0 || err != nil && !errors.Is(err, unix.EAGAIN)
		})
		if wait == nil && errors.Is(err, unix.ENOMEM) && size > minWrite { // memory is too fragmented
			size /= 2
			continue
		}
		if n, err = result(n, err, wait, "write", p.file.Name()); err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

// SetWriteDeadline sets when a Write gives up, also one that waits already. A zero time means never.
func (p *Port) SetWriteDeadline(t time.Time) error { return p.file.SetWriteDeadline(t) }

// Close closes the port and ends a Read or Write that waits.
func (p *Port) Close() error { return p.file.Close() }

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func result(n int, err, wait error, op, path string) (int, error) {
	if wait != nil {
		return 0, wait
	}
	if err != nil {
		return 0, &os.PathError{Op: op, Path: path, Err: err}
	}
	return n, nil
}
