package terminal

import (
	"bytes"
	"strings"
	"testing"
)

func TestMute(t *testing.T) {
	image := "\x1b_Ga=T;" + strings.Repeat("x", 2*maxHeld) + "\x1b\\"
	for in, want := range map[string]string{
		"plain\r\n":                              "plain\r\n",
		"a\x1b[6nb\x1b[?6n\x1b[c\x1b[>c\x1b[5nc": "abc",
		"\x1b[1;31mred\x1b[0m\x1b[2J":            "\x1b[1;31mred\x1b[0m\x1b[2J",
		"\x1b[?25$p\x1b[!p\x1b[>q\x1b[2 q":       "\x1b[!p\x1b[2 q",
		"\x1b[?u\x1b[>1u\x1b[<u\x1b[>4n":         "\x1b[>1u\x1b[<u\x1b[>4n",
		"\x1b[18t\x1b[22;0t\x1b[8;24;80t":        "\x1b[22;0t\x1b[8;24;80t",
		"\x1b]11;?\x07x\x1b]11;?\x1b\\y":         "xy",
		"\x1b]0;title\x07\x1b]11;#fff\x1b\\":     "\x1b]0;title\x07\x1b]11;#fff\x1b\\",
		"\x1bP+q544e\x1b\\\x1bP$qm\x1b\\z":       "z",
		"\x1bZ\x05k":                             "k",
		image + "\x1b[6n!":                       image + "!",
		"\x1b[3\x1b[1mx":                         "\x1b[1mx", // what is cut off means nothing
		"\x1b]0;t\x1b[6n!":                       "!",
		image[:3*maxHeld/2] + "\x1b[6n!":         image[:3*maxHeld/2] + "\x18!",
		"grün \x1b(B":                            "grün \x1b(B",
	} {
		for _, size := range []int{1, 7, len(in)} {
			var out bytes.Buffer
			m := NewMute(&out)
			for rest := in; rest != ""; rest = rest[min(size, len(rest)):] {
				piece := rest[:min(size, len(rest))]
				if n, err := m.Write([]byte(piece)); n != len(piece) || err != nil {
					t.Fatal(n, err)
				}
			}
			if out.String() != want {
				t.Errorf("%.60q in pieces of %d: %.60q, want %.60q", in, size, out.String(), want)
			}
		}
	}
}

// What is taken out changes nothing in the terminal, and nothing is held without bound.
func FuzzMute(f *testing.F) {
	f.Add([]byte("a\x1b[6nb\x1b]11;?\x07\x1bP+q\x1b\\\x1b[?1049h"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		m := NewMute(&out)
		m.Write(in)
		if len(m.held) > maxHeld || out.Len() > 2*len(in) {
			t.Errorf("%d bytes are held, and %d of %d written", len(m.held), out.Len(), len(in))
		}
		var before, after Modes
		before.Write(in)
		after.Write(out.Bytes())
		if before.state == ground && !bytes.Equal(before.Off(), after.Off()) {
			t.Errorf("%q becomes %q: %q is to be switched off, and was %q", in, out.Bytes(), after.Off(), before.Off())
		}
	})
}
