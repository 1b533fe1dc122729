package vmmlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// Log is a file that never grows beyond a size: when it would, its older half is dropped. Its content comes from
// a guest that may print forever. It is written by one goroutine.
type Log struct {
	dir  *os.Root // wherever it is moved to
	name string
	f    *os.File
	size int64
	max  int64
}

// Open opens or makes a log of at most max bytes in a directory, which stays the caller's; fresh empties it.
func Open(dir *os.Root, name string, max int64, fresh bool) (*Log, error) {
	flags := os.O_RDWR | os.O_CREATE | os.O_APPEND
	if fresh {
		flags |= os.O_TRUNC
	}
	f, err := dir.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("look at the log: %w", err)
	}
	return &Log{dir: dir, name: name, f: f, size: info.Size(), max: max}, nil
}

// Write appends p.
func (l *Log) Write(p []byte) (int, error) {
	n := len(p)
	if int64(n) > l.max/2 {
		p = p[int64(n)-l.max/2:]
	}
	if l.size+int64(len(p)) > l.max {
		if err := l.halve(); err != nil {
			// It stays bounded, even where there is no room for a copy.
			if terr := l.f.Truncate(0); terr != nil {
				return 0, errors.Join(err, terr)
			}
			l.size = 0
		}
	}
	written, err := l.f.Write(p)
	l.size += int64(written)
	if err != nil {
		return 0, fmt.Errorf("write the log: %w", err)
	}
	return n, nil
}

// halve replaces the file by one with its newer half, from the first whole line on. Readers of the old one keep it.
func (l *Log) halve() error {
	keep := make([]byte, min(l.max/2, l.size))
	if _, err := l.f.ReadAt(keep, l.size-int64(len(keep))); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the log: %w", err)
	}
	if i := bytes.IndexByte(keep, '\n'); i >= 0 {
		keep = keep[i+1:]
	}
	tmp := l.name + ".new"
	f, err := l.dir.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("make a new log: %w", err)
	}
	if _, err = f.Write(keep); err == nil {
		err = l.dir.Rename(tmp, l.name)
	}
	if err != nil {
		f.Close()
		_ = l.dir.Remove(tmp)
		return fmt.Errorf("replace the log: %w", err)
	}
	l.f.Close()
	l.f, l.size = f, int64(len(keep))
	return nil
}

// Tail returns the last bytes of the log, at most n.
func (l *Log) Tail(n int64) []byte {
	b := make([]byte, min(n, l.size))
	m, _ := l.f.ReadAt(b, l.size-int64(len(b)))
	return b[:m]
}

// Close closes the file.
func (l *Log) Close() error { return l.f.Close() }
