package qemu

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
)

// recorder copies a stream of a VMM into a bounded log until the stream ends. A log that cannot be written does not stop
// it: the guest would wait for its console then.
type recorder struct {
	from io.ReadCloser
	to   *boundedLog
	log  *slog.Logger
	done chan struct{}
}

func startRecorder(from io.ReadCloser, to *boundedLog, log *slog.Logger) *recorder {
	r := &recorder{from: from, to: to, log: log, done: make(chan struct{})}
	go r.run()
	return r
}

func (r *recorder) run() {
	defer close(r.done)
	defer r.from.Close()
	buf := make([]byte, 4096)
	complained := false
	for {
		n, err := r.from.Read(buf)
		if n > 0 {
			if _, werr := r.to.Write(buf[:n]); werr != nil && !complained {
				complained = true
				r.log.Warn("output of the microVM is lost", "path", r.to.path, "err", werr)
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
				r.log.Debug("the output of the microVM ended", "path", r.to.path, "err", err)
			}
			return
		}
	}
}

// wait returns when the stream has ended by itself.
func (r *recorder) wait() { <-r.done }

// stop ends it now.
func (r *recorder) stop() {
	r.from.Close()
	<-r.done
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
