package terminal

import (
	"strings"
	"testing"
)

func TestModes(t *testing.T) {
	for _, tc := range []struct{ out, off, on string }{
		{"plain text\r\n\x07", "", ""},
		{"\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?1049l\x1b[?25h", "\x1b[?1049h\x1b[?25l"},
		{"\x1b[?1049h vi \x1b[?1049l", "", ""},
		{"\x1b[?1000;1006h\x1b[?2004h", "\x1b[?1000l\x1b[?1006l\x1b[?2004l", "\x1b[?1000h\x1b[?1006h\x1b[?2004h"},
		{"\x1b[?1h\x1b=", "\x1b>\x1b[?1l", "\x1b[?1h\x1b="},
		{"\x1b[?1h\x1b=\x1b[?1l\x1b>", "", ""},
		{"\x1b[1;31mred", "\x1b[m", ""},
		{"\x1b[1;31mred\x1b[0m", "", ""},
		{"\x1b[0;31mred", "\x1b[m", ""},
		{"\x1b[mtext", "", ""},
		{"\x1b[2;10r", "\x1b7\x1b[r\x1b8", ""},
		{"\x1b[2;10r\x1b[r", "", ""},
		{"\x1b(0lqqk", "\x0f\x1b(B", ""},
		{"\x1b(0lqqk\x1b(B", "", ""},
		{"\x0elqqk", "\x0f\x1b(B", ""},
		{"\x1b[5 q", "\x1b[0 q", ""},
		{"\x1b[>4;2m\x1b[>1u\x1b[>5u\x1b[<u", "\x1b[<1u\x1b[>4m", ""},
		{"\x1b[<99999999u", "", ""},
		{"\x1b[>4;2m\x1b[>4m", "", ""},
		{"\x1b[?1049h\x1b[1m\x1bc", "", ""},
		{"\x1b[?25l\x1b[?1000h\x1b[!p", "\x1b[?1000l", "\x1b[?1000h"},
		{"\x1b]0;title \x1b[?25l inside\x07", "\x1b[?25h", "\x1b[?25l"}, // as xterm: ESC ends the string
		{"\x1b]0;\x1b\\text", "", ""},
		{"\x1b]0;unfinished", "\x18", ""},
		{"\x1b[?10", "\x18", ""},
		{"\x1b[?1049\x18h", "", ""},
		{"\x1b[?25\x1b[?2004h", "\x1b[?2004l", "\x1b[?2004h"},
		{"\x1b[?99999999999999999999h", "", ""},
		{"\x1b[?1;2;2;2;2;2;2;2;2;2;2;2;2;2;2;2;2004h", "\x1b[?1l", "\x1b[?1h"}, // the 17th is dropped
		{"é\x1b[?2004hé", "\x1b[?2004l", "\x1b[?2004h"},
	} {
		var whole, pieces Modes
		whole.Write([]byte(tc.out))
		for i := range len(tc.out) {
			pieces.Write([]byte(tc.out[i : i+1]))
		}
		if whole != pieces {
			t.Errorf("%q: %+v at once, %+v by bytes", tc.out, whole, pieces)
		}
		if off, on := string(whole.Off()), string(whole.On()); off != tc.off || on != tc.on {
			t.Errorf("%q: off %q, on %q; want %q, %q", tc.out, off, on, tc.off, tc.on)
		}
	}
}

// Whatever a program writes, what Off writes leaves nothing to switch off.
func FuzzModes(f *testing.F) {
	f.Add([]byte("\x1b[?1049h\x1b[?25l\x1b[1m\x1b(0\x1b[>1u\x1b]0;"))
	f.Fuzz(func(t *testing.T, out []byte) {
		var m Modes
		m.Write(out)
		off := m.Off()
		if len(off) > 1024 {
			t.Errorf("%d bytes to switch off", len(off))
		}
		m.Write(off)
		if rest := m.Off(); len(rest) > 0 {
			t.Errorf("%q leaves %q after %q", out, rest, off)
		}
		if m.state != ground {
			t.Errorf("%q ends within a sequence after %q", out, off)
		}
	})
}

func TestRedraw(t *testing.T) {
	var b strings.Builder
	if err := Redraw(&b, []byte("one\ntwo\n")); err != nil || b.String() != "\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\n\x1b[J" {
		t.Errorf("%q, %v", b.String(), err)
	}
}
