package asciicast

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
	"unicode/utf8"
)

// maxData bounds the bytes of one event, so that a line of it stays below maxLine however it is escaped.
const maxData = 64 << 10

// Writer makes a recording. Each event is one write of a whole line to the file, at the moment when it happens: whoever
// kills the process finds complete lines. Its methods may be called by several goroutines.
//
// The first error of the file ends the recording, not what is recorded: the writers go on as if nothing were wrong, and Close
// returns it.
type Writer struct {
	file    *os.File
	path    string
	created bool // the file was not there before
	now     func() time.Time

	mu      sync.Mutex
	header  Header
	began   time.Time
	written int64 // bytes in complete lines; 0 before the header
	line    bytes.Buffer
	err     error
	streams []*stream
}

// Create opens a file for a recording, with mode 0600, as what is on a terminal may be secret. A file that is there is left
// alone, with an error that is fs.ErrExist, unless overwrite is set. The file is not changed before the first event. Time
// begins now; h.Version and h.Timestamp are set.
func Create(path string, h Header, overwrite bool) (*Writer, error) {
	return create(path, h, overwrite, time.Now)
}

func create(path string, h Header, overwrite bool, now func() time.Time) (*Writer, error) {
	w := &Writer{path: path, header: h, now: now, created: true}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if overwrite && errors.Is(err, os.ErrExist) {
		w.created = false
		f, err = os.OpenFile(path, os.O_WRONLY, 0)
	}
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	w.file = f
	w.began = now()
	w.header.Version, w.header.Timestamp = 2, w.began.Unix()
	return w, nil
}

// Stream returns a writer that records what is written as events of one code, Output or Input. Bytes that are no UTF-8 become
// U+FFFD; a character whose bytes come in two writes is kept whole, and so belongs to the later one. With newlines, each \n
// becomes \r\n, as a terminal makes it of what a program writes to it; without, the bytes have been through a terminal.
func (w *Writer) Stream(code string, newlines bool) io.Writer {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &stream{w: w, code: code, newlines: newlines}
	w.streams = append(w.streams, s)
	return s
}

// Resized records a new size of the terminal.
func (w *Writer) Resized(width, height int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.event(Resize, fmt.Sprintf("%dx%d", width, height))
}

// Close ends the recording and returns the first error that there was.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.streams {
		if len(s.rest) > 0 {
			w.event(s.code, string(utf8.RuneError))
			s.rest = nil
		}
	}
	w.begin() // a command without output has a recording as well
	if err := w.file.Sync(); err != nil {
		w.fail(err)
	}
	if err := w.file.Close(); err != nil {
		w.fail(err)
	}
	return w.err
}

// Discard ends a recording of nothing: a file that was made for it is removed. One with events stays.
func (w *Writer) Discard() error {
	w.mu.Lock()
	empty := w.written == 0 && w.err == nil
	w.mu.Unlock()
	if !empty {
		return w.Close()
	}
	err := w.file.Close()
	if w.created {
		err = errors.Join(err, os.Remove(w.path))
	}
	return err
}

func (w *Writer) begin() {
	if w.written > 0 || w.err != nil {
		return
	}
	if err := w.file.Truncate(0); err != nil {
		w.fail(err)
		return
	}
	w.put(w.header)
}

func (w *Writer) event(code, data string) {
	w.begin()
	w.put([3]any{json.Number(fmt.Sprintf("%.6f", max(0, w.now().Sub(w.began).Seconds()))), code, data})
}

// put writes one line.
func (w *Writer) put(v any) {
	if w.err != nil {
		return
	}
	w.line.Reset()
	enc := json.NewEncoder(&w.line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		w.fail(err)
		return
	}
	n, err := w.file.Write(w.line.Bytes())
	if err != nil {
		if n > 0 { // such as on a full disk: what is there stays readable
			_ = w.file.Truncate(w.written)
		}
		w.fail(err)
		return
	}
	w.written += int64(n)
}

func (w *Writer) fail(err error) {
	if w.err == nil {
		w.err = fmt.Errorf("record to %s: %w", w.path, err)
	}
}

type stream struct {
	w        *Writer
	code     string
	newlines bool
	rest     []byte // the beginning of a character whose end has not come; up to 3 bytes
}

// Write records p and never fails: Writer.Close tells.
func (s *stream) Write(p []byte) (int, error) {
	n := len(p)
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.w.err != nil {
		return n, nil
	}
	if len(s.rest) > 0 {
		p = append(s.rest, p...)
		s.rest = nil
	}
	for len(p) > 0 {
		whole := complete(p[:min(len(p), maxData)])
		if whole == 0 {
			s.rest = append([]byte(nil), p...)
			break
		}
		data := bytes.ToValidUTF8(p[:whole], []byte(string(utf8.RuneError)))
		if s.newlines {
			data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
		}
		s.w.event(s.code, string(data))
		p = p[whole:]
	}
	return n, nil
}

// complete is the length of p without the beginning of a character that its end cuts.
func complete(p []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(p); i++ {
		if c := p[len(p)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(p[len(p)-i:]) {
				return len(p) - i
			}
			break
		}
	}
	return len(p)
}
