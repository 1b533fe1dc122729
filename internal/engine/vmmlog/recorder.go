package vmmlog

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
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

// Recorder copies a stream of a VMM into a bounded log until the stream ends. A log that cannot be written does not stop
// it: the guest would wait for its console then.
type Recorder struct {
	from  io.ReadCloser
	to    *Log
	log   *slog.Logger
	hurry chan struct{} // closed when the rest is to be read at once
	done  chan struct{}
}

// Record begins to copy from into to.
func Record(from io.ReadCloser, to *Log, log *slog.Logger) *Recorder {
	r := &Recorder{from: from, to: to, log: log, hurry: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

func (r *Recorder) run() {
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
				r.log.Warn("output of the microVM is lost", "path", r.to.name, "err", werr)
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
				r.log.Debug("the output of the microVM ended", "path", r.to.name, "err", err)
			}
			return
		}
		if !limit.take(time.Now()) {
			r.pause()
		}
	}
}

// pause lets the stream wait, unless there is a hurry.
func (r *Recorder) pause() {
	timer := time.NewTimer(readPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.hurry:
	}
}

// Finish returns when the stream, whose writer has ended, is read to its end.
func (r *Recorder) Finish() {
	close(r.hurry)
	<-r.done
}

// Stop ends it now.
func (r *Recorder) Stop() {
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
