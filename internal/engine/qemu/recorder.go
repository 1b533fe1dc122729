package qemu

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"
)

// A serial console comes byte by byte, and each costs a read and a write. A guest that prints without end would take most
// of a CPU for that, so it is read at a limited rate once it has used up a burst: a boot or a panic fits into that.
const (
	readBurst  = 16 << 10
	readRate   = 5000 // reads a second; about 3% of a CPU
	readPause  = 50 * time.Millisecond
	recordSize = 4096 // bytes, of a read
)

// recorder copies a stream of a VMM into a bounded log until the stream ends. A log that cannot be written does not stop
// it: the guest would wait for its console then.
type recorder struct {
	from  io.ReadCloser
	to    *boundedLog
	log   *slog.Logger
	hurry chan struct{} // closed when the rest is to be read at once
	done  chan struct{}
}

func startRecorder(from io.ReadCloser, to *boundedLog, log *slog.Logger) *recorder {
	r := &recorder{from: from, to: to, log: log, hurry: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

func (r *recorder) run() {
	defer close(r.done)
	defer r.from.Close()
	buf := make([]byte, recordSize)
	complained := false
	limit := newAllowance(time.Now())
	for {
		n, err := r.from.Read(buf)
		if n > 0 {
			if _, werr := r.to.Write(buf[:n]); werr != nil && !complained {
				complained = true
				r.log.Warn("output of the microVM is lost", "path", r.to.path, "err", werr)
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
				r.log.Debug("the output of the microVM ended", "path", r.to.path, "err", err)
			}
			return
		}
		if !limit.take(time.Now()) {
			r.pause()
		}
	}
}

// pause lets the stream wait, unless there is a hurry.
func (r *recorder) pause() {
	timer := time.NewTimer(readPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.hurry:
	}
}

// finish returns when the stream, whose writer has ended, is read to its end.
func (r *recorder) finish() {
	close(r.hurry)
	<-r.done
}

// stop ends it now.
func (r *recorder) stop() {
	r.from.Close()
	close(r.hurry)
	<-r.done
}

// allowance is a number of reads that grows at a rate up to a burst.
type allowance struct {
	left float64
	last time.Time
}

func newAllowance(now time.Time) *allowance { return &allowance{left: readBurst, last: now} }

// take uses up one read and reports whether there was one.
func (a *allowance) take(now time.Time) bool {
	a.left = min(readBurst, a.left+now.Sub(a.last).Seconds()*readRate) - 1
	a.last = now
	return a.left > 0
}

// maxShown is how much of a line is shown, in bytes: its end, as what was wrong comes last in what QEMU says.
const maxShown = 300

// lastLines returns the last lines of output in one line, fit to be shown: at most max lines, none longer than maxShown,
// only printable ASCII.
func lastLines(output []byte, max int) string {
	var lines []string
	for line := range strings.SplitSeq(string(output), "\n") {
		line = strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return -1
			}
			return r
		}, line)
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line[len(line)-min(len(line), maxShown):])
		}
	}
	return strings.Join(lines[len(lines)-min(len(lines), max):], "; ")
}

// complaints returns what QEMU said, without what it says in passing.
func complaints(output []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(output) {
		if !bytes.Contains(line, []byte(": info: ")) {
			kept = append(kept, line...)
		}
	}
	return kept
}

// kernelPanic returns the line in which a Linux kernel says that it panicked, or "". Whoever is root in the guest can
// print that line too, so it explains an end and decides nothing.
func kernelPanic(console []byte) string {
	const mark = "Kernel panic - not syncing"
	i := strings.LastIndex(string(console), mark)
	if i < 0 {
		return ""
	}
	line, _, _ := strings.Cut(string(console[i:]), "\n")
	return lastLines([]byte(line), 1)
}
