package terminal

import (
	"bytes"
	"io"
)

// maxHeld bounds the bytes of a sequence that are held back. Longer ones, such as images, are no questions.
const maxHeld = 4096

// Mute passes output on without the sequences that a terminal answers, such as the question where the cursor is. Played
// from a recording nobody waits for the answers, and the shell would take them as typed.
type Mute struct {
	w     io.Writer
	modes Modes  // knows where sequences begin and end
	held  []byte // a sequence that has begun
	long  bool   // it is longer than maxHeld, and passes
	out   []byte
}

// NewMute returns a Mute that writes to w.
func NewMute(w io.Writer) *Mute { return &Mute{w: w} }

// Write passes p on, as far as its sequences are complete.
func (m *Mute) Write(p []byte) (int, error) {
	m.out = m.out[:0]
	for _, c := range p {
		before := m.modes.state
		m.modes.step(c)
		switch after := m.modes.state; {
		case before == ground && after == ground:
			if c != 0x05 { // ENQ
				m.out = append(m.out, c)
			}
			continue
		case c == 0x1b && after == escape:
			m.cutOff()
		case before == strEscape && c != '\\' && c != 0x18 && c != 0x1a: // the ESC was no end, but a beginning
			m.cutOff()
			m.held = append(m.held, 0x1b)
		}
		switch {
		case m.long && m.modes.state == strEscape:
			m.held = append(m.held, c)
		case m.long && len(m.held) > 0:
			m.out = append(append(m.out, m.held...), c)
			m.held = m.held[:0]
		case m.long:
			m.out = append(m.out, c)
		case len(m.held) == maxHeld:
			m.long = true
			m.out = append(append(m.out, m.held...), c)
			m.held = m.held[:0]
		default:
			m.held = append(m.held, c)
		}
		if m.modes.state == ground {
			if !isQuestion(m.held) {
				m.out = append(m.out, m.held...)
			}
			m.held, m.long = m.held[:0], false
		}
	}
	if len(m.out) == 0 {
		return len(p), nil
	}
	if _, err := m.w.Write(m.out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// cutOff drops a sequence that another one has cut off: it means nothing, and what cuts it off may be dropped as well.
func (m *Mute) cutOff() {
	if m.long {
		m.out = append(m.out, 0x18)
	}
	m.held, m.long = m.held[:0], false
}

// isQuestion reports whether a terminal answers a sequence.
func isQuestion(seq []byte) bool {
	if len(seq) < 3 {
		return len(seq) == 2 && seq[1] == 'Z' // DECID
	}
	body, final := seq[2:len(seq)-1], seq[len(seq)-1]
	private := len(body) > 0 && body[0] >= '<' && body[0] <= '?'
	switch seq[1] {
	case '[':
		switch final {
		case 'n': // DSR; with > it is a setting
			return !private || body[0] == '?'
		case 'c', 'x': // DA, DECREQTPARM
			return true
		case 'p': // DECRQM
			return bytes.HasSuffix(body, []byte("$"))
		case 'q': // XTVERSION
			return private && body[0] == '>'
		case 'u': // kitty keyboard
			return private && body[0] == '?'
		case 'S': // XTSMGRAPHICS; without ? it scrolls
			return private && body[0] == '?'
		case 'y': // DECRQCRA
			return bytes.HasSuffix(body, []byte("*"))
		case 't': // XTWINOPS: reports have numbers from 11 to 21
			n := 0
			for _, c := range body {
				if c < '0' || c > '9' || n > 100 {
					break
				}
				n = n*10 + int(c-'0')
			}
			return n >= 11 && n <= 21
		}
	case ']': // OSC: colours, clipboard
		return bytes.HasSuffix(bytes.TrimRight(seq, "\x07\x1b\\"), []byte("?"))
	case 'P': // DECRQSS, XTGETTCAP
		return bytes.HasPrefix(body, []byte("$q")) || bytes.HasPrefix(body, []byte("+q"))
	case '_': // kitty graphics
		return bytes.HasPrefix(body, []byte("Ga=q")) || bytes.Contains(body, []byte(",a=q"))
	}
	return false
}
