package asciicast

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	// maxLine bounds what is held of a recording.
	maxLine = 1 << 20
	// maxSeconds bounds the time of an event: some thirty years, which a Duration holds.
	maxSeconds = 1e9
	// maxSide bounds the sides of a terminal, in characters.
	maxSide = 1 << 16
)

// SyntaxError says where a recording is wrong. Line and column count from 1, the column in bytes.
type SyntaxError struct {
	Line, Column int
	Msg          string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Msg) }

// Reader reads a recording, from anywhere: it holds one line, of up to a mebibyte.
type Reader struct {
	Header Header

	r    *bufio.Reader
	line int
}

// NewReader reads the header.
func NewReader(in io.Reader) (*Reader, error) {
	r := &Reader{r: bufio.NewReaderSize(in, 64<<10)}
	text, err := r.next()
	if errors.Is(err, io.EOF) {
		return nil, &SyntaxError{1, 1, "the file is empty"}
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &r.Header); err != nil {
		column := 1
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			column = int(max(kind.Offset, 1))
		}
		return nil, &SyntaxError{r.line, column, "the first line is no header of an asciicast: " + err.Error()}
	}
	switch h := r.Header; {
	case h.Version != 2:
		return nil, &SyntaxError{r.line, 1, fmt.Sprintf("version %d of asciicast is not supported, only 2", h.Version)}
	case h.Width < 0 || h.Width > maxSide || h.Height < 0 || h.Height > maxSide:
		return nil, &SyntaxError{r.line, 1, fmt.Sprintf("width %d and height %d are no size of a terminal", h.Width, h.Height)}
	case h.IdleLimit < 0:
		return nil, &SyntaxError{r.line, 1, "idle_time_limit is negative"}
	}
	return r, nil
}

// Next returns the next event, or io.EOF.
func (r *Reader) Next() (Event, error) {
	text, err := r.next()
	if err != nil {
		return Event{}, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	at := 0 // where the element begins that is read
	wrong := func(msg string) (Event, error) { return Event{}, &SyntaxError{r.line, at + 1, msg} }
	if tok, err := dec.Token(); err != nil || tok != json.Delim('[') {
		return wrong("an event is an array of time, code and data")
	}
	var ev Event
	for i, what := range []string{"time", "code", "data"} {
		if !dec.More() {
			at = int(dec.InputOffset())
			return wrong("the event has no " + what)
		}
		at = skip(text, int(dec.InputOffset()))
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return wrong(err.Error())
		}
		switch i {
		case 0:
			seconds, err := strconv.ParseFloat(string(raw), 64)
			if err != nil || math.IsNaN(seconds) || seconds < 0 || seconds > maxSeconds {
				return wrong("the time is not a number of seconds from 0")
			}
			ev.Time = time.Duration(seconds * float64(time.Second))
		case 1:
			if json.Unmarshal(raw, &ev.Code) != nil || len(raw) > 0 && raw[0] != '"' {
				return wrong("the code is not a string")
			}
		case 2:
			switch ev.Code {
			case Output, Input, Resize, Marker:
				if json.Unmarshal(raw, &ev.Data) != nil || raw[0] != '"' {
					return wrong("the data is not a string")
				}
			}
		}
	}
	if ev.Code == Resize {
		if _, _, ok := ParseSize(ev.Data); !ok {
			return wrong("the size is not WIDTHxHEIGHT")
		}
	}
	if dec.More() {
		at = skip(text, int(dec.InputOffset()))
		return wrong("the event has more than time, code and data")
	}
	return ev, nil
}

// ParseSize parses the data of a Resize event.
func ParseSize(s string) (width, height int, ok bool) {
	w, h, ok := strings.Cut(s, "x")
	width, err := strconv.Atoi(w)
	height, err2 := strconv.Atoi(h)
	return width, height, ok && err == nil && err2 == nil && width > 0 && width <= maxSide && height > 0 && height <= maxSide
}

// next returns the next line that is not blank; it is JSON.
func (r *Reader) next() ([]byte, error) {
	for {
		r.line++
		text, err := r.readLine()
		if err != nil {
			return nil, err
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		text = bytes.TrimRight(text, "\r\n")
		var value json.RawMessage
		if err := json.Unmarshal(text, &value); err != nil {
			column := len(text) + 1
			var bad *json.SyntaxError
			if errors.As(err, &bad) && !strings.Contains(err.Error(), "unexpected end") {
				column = int(bad.Offset)
			}
			return nil, &SyntaxError{r.line, column, err.Error()}
		}
		return text, nil
	}
}

// readLine returns a line with its end, or the rest of the file.
func (r *Reader) readLine() ([]byte, error) {
	var text []byte
	for {
		part, err := r.r.ReadSlice('\n')
		if len(text)+len(part) > maxLine {
			return nil, &SyntaxError{r.line, maxLine + 1, fmt.Sprintf("the line is longer than %d bytes", maxLine)}
		}
		text = append(text, part...)
		switch {
		case err == nil, errors.Is(err, io.EOF) && len(text) > 0:
			return text, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// skip is the offset of the next thing in text that is neither space nor a comma.
func skip(text []byte, at int) int {
	for at < len(text) && strings.IndexByte(" \t\r\n,", text[at]) >= 0 {
		at++
	}
	return at
}
