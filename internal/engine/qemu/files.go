package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// Bounds of the logs, in bytes.
const (
	maxConsoleLog = 1 << 20
	maxVMMLog     = 128 << 10
)

// runtimeFiles are the paths in a microVM's runtime directory.
type runtimeFiles struct {
	qmp, link, console string // sockets
	output             string // the FIFO of QEMU's stdout and stderr
}

func runtimeFilesIn(dir string) runtimeFiles {
	return runtimeFiles{
		qmp:     filepath.Join(dir, "qmp.sock"),
		link:    filepath.Join(dir, "link.sock"),
		console: filepath.Join(dir, "console.sock"),
		output:  filepath.Join(dir, "vmm.pipe"),
	}
}

// remove deletes what is there.
func (f runtimeFiles) remove() error {
	var errs []error
	for _, path := range []string{f.qmp, f.link, f.console, f.output} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// listen makes the sockets and returns the listening ends in the order of their descriptors in QEMU.
func (f runtimeFiles) listen() (ends []*os.File, err error) {
	for _, path := range []string{f.qmp, f.link, f.console} {
		l, err := unixsock.Listen(path)
		if err == nil {
			var end *os.File
			if end, err = l.Detach(); err == nil {
				ends = append(ends, end)
			}
		}
		if err != nil {
			closeAll(ends)
			return nil, fmt.Errorf("make the VMM's sockets: %w", err)
		}
	}
	return ends, nil
}

// makeOutput makes the FIFO of QEMU's output and opens it twice: the end that QEMU gets, and the one that is read here.
//
// QEMU's end is open for reading as well and does not block. So its output never stops QEMU: with no daemon there is still
// a reader (no SIGPIPE), and when the FIFO is full, what is more is lost.
func (f runtimeFiles) makeOutput() (theirs, ours *os.File, err error) {
	if err := os.Remove(f.output); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("remove an old output of the VMM: %w", err)
	}
	if err := unix.Mkfifo(f.output, 0o600); err != nil {
		return nil, nil, fmt.Errorf("make the VMM's output: %w", &os.PathError{Op: "mkfifo", Path: f.output, Err: err})
	}
	if theirs, err = os.OpenFile(f.output, os.O_RDWR|syscall.O_NONBLOCK, 0); err != nil {
		return nil, nil, fmt.Errorf("open the VMM's output: %w", err)
	}
	if ours, err = f.openOutput(); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return theirs, ours, nil
}

// openOutput opens the FIFO for reading: its end is the end of QEMU.
func (f runtimeFiles) openOutput() (*os.File, error) {
	ours, err := os.OpenFile(f.output, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open the VMM's output: %w", err)
	}
	return ours, nil
}

func (f runtimeFiles) dialConsole(ctx context.Context) (io.ReadCloser, error) {
	conn, err := unixsock.Dial(ctx, f.console)
	if err != nil {
		return nil, fmt.Errorf("connect to the console: %w", err)
	}
	return conn, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
