package asciicast

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// clock is a time that moves a quarter of a second with each look at it.
func clock() func() time.Time {
	t := time.Unix(1700000000, 0)
	return func() time.Time { t = t.Add(250 * time.Millisecond); return t }
}

func TestWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.cast")
	w, err := create(path, Header{Width: 80, Height: 24, Command: "sh", Env: map[string]string{"TERM": "xterm"}}, false, clock())
	if err != nil {
		t.Fatal(err)
	}
	out, in := w.Stream(Output, false), w.Stream(Input, false)
	write := func(w io.Writer, s string) {
		if n, err := io.WriteString(w, s); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	write(out, "a<b>\x1b[1m\r\n")
	write(out, "gr\xc3") // ü in two pieces, with other events in between
	write(in, "\x03")
	w.Resized(100, 50)
	write(out, "\xbc\xc3\xbcn")
	write(out, "\xf0\x9f")
	write(out, "\x90")
	write(out, "\xa7")
	write(out, "bad\xff\xfeend\xe2\x82")
	before, err := os.ReadFile(path)
	if err != nil || !bytes.HasSuffix(before, []byte("\n")) {
		t.Errorf("before the end: %q, %v", before, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"version":2,"width":80,"height":24,"timestamp":1700000000,"command":"sh","env":{"TERM":"xterm"}}
[0.250000,"o","a<b>\u001b[1m\r\n"]
[0.500000,"o","gr"]
[0.750000,"i","\u0003"]
[1.000000,"r","100x50"]
[1.250000,"o","üün"]
[1.500000,"o","🐧"]
[1.750000,"o","bad` + "\ufffd" + `end"]
[2.000000,"o","` + "\ufffd" + `"]
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

// What a command writes without a terminal gets the line ends that a terminal makes.
func TestNewlines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.cast")
	w, err := Create(path, Header{Width: 80, Height: 24}, false)
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr := w.Stream(Output, true), w.Stream(Output, true)
	io.WriteString(stdout, "a\nb\xc3")
	io.WriteString(stderr, "e\n") // does not break the character of stdout
	io.WriteString(stdout, "\xbc\n")
	io.WriteString(stdout, strings.Repeat("\x01", 3*maxData))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	play(t, path, &got)
	if want := "a\r\nbe\r\nü\r\n" + strings.Repeat("\x01", 3*maxData); got.String() != want {
		t.Errorf("%.80q", got.String())
	}
}

func play(t *testing.T, path string, w io.Writer) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := Play(t.Context(), r, w, Pace{Speed: 1e6}); err != nil {
		t.Fatal(err)
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.cast")
	discarded, err := Create(path, Header{Width: 80, Height: 24}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := discarded.Discard(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a recording of nothing is left over: ", err)
	}
	old := strings.Repeat("precious ", 100)
	if err := os.WriteFile(path, []byte(old), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, Header{}, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an existing file: %v", err)
	}
	w, err := Create(path, Header{Width: 80, Height: 24}, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Discard(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != old {
		t.Errorf("a file is changed although nothing was recorded: %v, %.20q", err, got)
	}
	if w, err = Create(path, Header{Width: 80, Height: 24}, true); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(got), "{") || strings.Contains(string(got), "precious") {
		t.Errorf("%v, %q", err, got)
	}
	if _, err := Create("/dev/null", Header{}, true); err == nil {
		t.Error("a device was taken")
	}
}

const header = `{"version": 2, "width": 80, "height": 24}` + "\n"

func TestSyntaxErrors(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", "1:1: the file is empty"},
		{"\n\n", "1:1: the file is empty"},
		{"hello\n", "1:1: invalid character 'h'"},
		{"[]\n", "1:1: the first line is no header"},
		{`{"version": 2, "width": 80, "height": 24`, "1:41: unexpected end"},
		{`{"version": 2, "width": "80", "height": 24}`, "1:28: the first line"},
		{`{"version": 2, "width": 80, "height": 24} x`, "1:43: invalid character 'x' after"},
		{`{"version": 3, "width": 80, "height": 24}`, "1:1: version 3"},
		{`{"version": 2, "width": 80, "height": -1}`, "1:1: width 80 and height -1"},
		{`{"version": 2, "width": 80, "height": 24, "idle_time_limit": -1}`, "1:1: idle_time_limit"},
		{header + `{}`, "2:1: an event is an array"},
		{header + "\n" + `[]`, "3:2: the event has no time"},
		{header + `[1]`, "2:3: the event has no code"},
		{header + `[1, "o"]`, "2:8: the event has no data"},
		{header + `["1", "o", ""]`, "2:2: the time"},
		{header + `[-1, "o", ""]`, "2:2: the time"},
		{header + `[1e400, "o", ""]`, "2:2: the time"},
		{header + `[1, null, ""]`, "2:5: the code"},
		{header + `[1, "o", 5]`, "2:10: the data"},
		{header + `[1, "o", null]`, "2:10: the data"},
		{header + `[1, "r", "80"]`, "2:10: the size"},
		{header + `[1, "r", "80x0"]`, "2:10: the size"},
		{header + `[1, "o", "a", 2]`, "2:15: the event has more"},
		{header + `[1, "o", "a"],`, "2:14: invalid character ',' after"},
		{header + `[1, "o" "a"]`, "2:9: invalid"},
		{header + `[1, "o", "unfini`, "2:17: unexpected end"},
		{header + `[1, "o", "a\q"]`, "2:13: invalid"},
		{header + "[1, \"o\", \"" + strings.Repeat("x", maxLine), "2:1048577: the line is longer"},
	} {
		r, err := NewReader(strings.NewReader(tc.text))
		if err == nil {
			_, err = r.Next()
		}
		var bad *SyntaxError
		if !errors.As(err, &bad) || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%.80q: %v; want %s", tc.text, err, tc.want)
		}
	}
}

func TestPlay(t *testing.T) {
	cast := `{"version": 2, "width": 80, "height": 24, "idle_time_limit": 60}
[0.5, "o", "a"]

[1, "x", {"unknown": 1}]
[1.5, "i", "typed"]
[2.0, "o", "b"]
[1.9, "o", "late"]
[102.0, "r", "90x30"]
[103.0, "o", "c"]`
	for _, tc := range []struct {
		pace Pace
		at   []time.Duration // of the outputs
	}{
		{Pace{Speed: 1}, []time.Duration{500 * time.Millisecond, 2 * time.Second, 2 * time.Second, 63 * time.Second}},
		{Pace{Speed: 2}, []time.Duration{250 * time.Millisecond, time.Second, time.Second, 31500 * time.Millisecond}},
		{Pace{Speed: 1, Idle: time.Second}, []time.Duration{500 * time.Millisecond, 2 * time.Second, 2 * time.Second, 4 * time.Second}},
	} {
		synctest.Test(t, func(t *testing.T) {
			r, err := NewReader(strings.NewReader(cast))
			if err != nil {
				t.Fatal(err)
			}
			w := &timed{begin: time.Now()}
			if err := Play(t.Context(), r, w, tc.pace); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.at, w.at); diff != "" || w.String() != "ablatec" {
				t.Errorf("%+v: %q %s", tc.pace, w.String(), diff)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		r, err := NewReader(strings.NewReader(cast))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		w := &timed{begin: time.Now()}
		if err := Play(ctx, r, w, Pace{Speed: 1}); !errors.Is(err, context.DeadlineExceeded) || w.String() != "ablate" {
			t.Errorf("%v, %q", err, w.String())
		}
	})
}

// timed notes when each write came.
type timed struct {
	text  strings.Builder
	begin time.Time
	at    []time.Duration
}

func (w *timed) Write(p []byte) (int, error) {
	w.at = append(w.at, time.Since(w.begin))
	return w.text.Write(p)
}

func (w *timed) String() string { return w.text.String() }

// Any bytes are read to an end or to a SyntaxError, and events are what they should be.
func FuzzReader(f *testing.F) {
	f.Add([]byte(header + `[0.5, "o", "a"]` + "\n" + `[1, "r", "90x30"]`))
	f.Add([]byte(header + `[0.5, "x", {"a": [1, 2]}]` + "\n" + `[1`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := NewReader(bytes.NewReader(data))
		for err == nil {
			var ev Event
			if ev, err = r.Next(); err == nil && (ev.Time < 0 || !utf8.ValidString(ev.Data)) {
				t.Errorf("%+v", ev)
			}
		}
		var bad *SyntaxError
		if !errors.Is(err, io.EOF) && (!errors.As(err, &bad) || bad.Line < 1 || bad.Column < 1) {
			t.Errorf("%v", err)
		}
	})
}

// What is recorded in any pieces comes back as the same text.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("gr\xc3\xbcn\xff\x1b[0m"), 3)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		path := filepath.Join(dir, "a.cast")
		w, err := Create(path, Header{Width: 80, Height: 24}, true)
		if err != nil {
			t.Fatal(err)
		}
		out := w.Stream(Output, false)
		size = max(1, size%16)
		for rest := data; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			out.Write(rest[:min(size, len(rest))])
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		play(t, path, &got)
		if !utf8.ValidString(got.String()) || utf8.Valid(data) && got.String() != string(data) {
			t.Errorf("%q became %q", data, got.String())
		}
	})
}
