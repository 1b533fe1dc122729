package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/agentkernel/agentkernel/internal/unixsock"
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

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
