package vmmlog

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// MakePipe makes the FIFO path for what a VMM writes and opens it twice: the end that the VMM gets, and the one that is read
// here. What is at path already is replaced.
//
// The VMM's end is open for reading as well and does not block. So its output never stops the VMM: with no daemon there is
// still a reader (no SIGPIPE), and when the FIFO is full, what is more is lost.
func MakePipe(path string) (theirs, ours *os.File, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("remove an old output of the VMM: %w", err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, nil, fmt.Errorf("make the VMM's output: %w", &os.PathError{Op: "mkfifo", Path: path, Err: err})
	}
	if theirs, err = os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0); err != nil {
		return nil, nil, fmt.Errorf("open the VMM's output: %w", err)
	}
	if ours, err = OpenPipe(path); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return theirs, ours, nil
}

// OpenPipe opens a FIFO of MakePipe for reading: its end is the end of the VMM.
func OpenPipe(path string) (*os.File, error) {
	ours, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open the VMM's output: %w", err)
	}
	return ours, nil
}
