package terminal

import (
	"bytes"
	"strconv"
)

// private are the DEC private modes that are tracked, and whether a terminal has them on by default. They stand in the order
// in which they are switched off: the keyboard and mouse first, the alternate screen before what the main screen keeps.
var private = []struct {
	mode int
	on   bool
}{
	{2026, false},                                                          // synchronized output
	{9, false}, {1000, false}, {1001, false}, {1002, false}, {1003, false}, // mouse reports
	{1005, false}, {1006, false}, {1015, false}, {1016, false}, // their encodings
	{1004, false},              // focus reports
	{2004, false},              // bracketed paste
	{2031, false},              // reports of the colour scheme
	{2048, false},              // reports of the size
	{1, false},                 // application cursor keys
	{66, false},                // application keypad
	{5, false},                 // reverse video
	{6, false},                 // origin
	{7, true},                  // automatic wrap
	{47, false}, {1047, false}, // alternate screen
	{1049, false},
	{25, true}, // cursor is visible
}

const (
	maxParams = 16
	// maxPushes bounds what is remembered of the kitty keyboard protocol's stack; terminals keep less.
	maxPushes = 16
)

// Modes follows a program's output and knows what it has changed in the terminal. The zero value is a terminal with its
// defaults. It takes any bytes and keeps a fixed amount of state.
type Modes struct {
	changed  [32]bool // by index of private: differs from the default
	keypad   bool     // ESC =
	charset  bool     // SO, or G0 is the line drawing set
	style    bool     // colours and the like
	region   bool     // scroll region
	cursor   bool     // cursor shape
	modKeys  bool     // modifyOtherKeys
	kitty    int      // pushes of the kitty keyboard protocol
	kittySet bool     // its flags were set without a push

	state  state
	prefix byte // of a control sequence: one of <=>?, or 0
	inter  byte // intermediate: the last byte from 0x20 to 0x2f, or 0
	params [maxParams]int
	n      int // parameters begun; more than maxParams are counted and dropped
}

type state byte

const (
	ground state = iota
	escape
	escapeInter // ESC and an intermediate byte
	sequence    // CSI
	str         // OSC, DCS, SOS, PM, APC: until ST
	strEscape   // ESC within such
)

// Write takes a piece of the output. It never fails.
func (m *Modes) Write(p []byte) (int, error) {
	for i := 0; i < len(p); i++ {
		if m.state == ground {
			// Most of the output is text.
			j := bytes.IndexAny(p[i:], "\x1b\x0e\x0f")
			if j < 0 {
				break
			}
			i += j
		}
		m.step(p[i])
	}
	return len(p), nil
}

func (m *Modes) step(c byte) {
	switch {
	case c == 0x18 || c == 0x1a: // CAN and SUB end any sequence
		m.state = ground
		return
	case c == 0x1b && m.state != str:
		m.state, m.prefix, m.inter, m.n, m.params = escape, 0, 0, 0, [maxParams]int{}
		return
	}
	switch m.state {
	case ground:
		switch c {
		case 0x0e:
			m.charset = true
		case 0x0f:
			m.charset = false
		}
	case escape:
		m.escape(c)
	case escapeInter:
		if c >= 0x30 && c <= 0x7e {
			m.state = ground
			if m.inter == '(' {
				m.charset = c == '0'
			}
		}
	case sequence:
		m.sequence(c)
	case str:
		switch c {
		case 0x07: // ends an OSC; that it ends others as well is what most terminals do
			m.state = ground
		case 0x1b:
			m.state = strEscape
		}
	case strEscape:
		// ESC \ ends the string. Any other ESC ends it as well and begins a sequence.
		m.state, m.prefix, m.inter, m.n, m.params = escape, 0, 0, 0, [maxParams]int{}
		m.escape(c)
	}
}

func (m *Modes) escape(c byte) {
	m.state = ground
	switch {
	case c == '[':
		m.state = sequence
	case c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_':
		m.state = str
	case c == '=':
		m.keypad = true
	case c == '>':
		m.keypad = false
	case c == 'c': // reset
		*m = Modes{}
	case c >= 0x20 && c <= 0x2f:
		m.inter, m.state = c, escapeInter
	case c < 0x20: // a control character within a sequence acts and the sequence goes on
		m.state = escape
	}
}

func (m *Modes) sequence(c byte) {
	switch {
	case c >= '<' && c <= '?':
		m.prefix = c
	case c >= '0' && c <= '9':
		if m.n == 0 {
			m.n = 1
		}
		if m.n <= maxParams {
			p := &m.params[m.n-1]
			*p = min(*p*10+int(c-'0'), 1<<20)
		}
	case c == ';' || c == ':':
		m.n = min(max(m.n, 1)+1, maxParams+1)
	case c >= 0x20 && c <= 0x2f:
		m.inter = c
	case c >= 0x40 && c <= 0x7e:
		m.state = ground
		m.dispatch(c)
	}
}

// dispatch acts on a complete control sequence.
func (m *Modes) dispatch(final byte) {
	params := m.params[:min(m.n, maxParams)]
	first := m.params[0]
	switch [3]byte{m.prefix, m.inter, final} {
	case [3]byte{'?', 0, 'h'}, [3]byte{'?', 0, 'l'}:
		for _, p := range params {
			m.set(p, final == 'h')
		}
	case [3]byte{0, 0, 'm'}:
		// 0 first and others behind it set some again.
		m.style = len(params) > 0 && (len(params) > 1 || first != 0)
	case [3]byte{0, 0, 'r'}:
		m.region = len(params) > 0
	case [3]byte{0, ' ', 'q'}:
		m.cursor = first != 0
	case [3]byte{0, '!', 'p'}: // soft reset
		kept := Modes{kitty: m.kitty, kittySet: m.kittySet}
		for i, p := range private {
			switch p.mode {
			case 1, 6, 7, 25, 66:
			default:
				kept.changed[i] = m.changed[i]
			}
		}
		*m = kept
	case [3]byte{'>', 0, 'm'}:
		if first == 4 {
			m.modKeys = len(params) > 1 && params[1] != 0
		}
	case [3]byte{'>', 0, 'u'}:
		m.kitty = min(m.kitty+1, maxPushes)
	case [3]byte{'<', 0, 'u'}:
		m.kitty = max(m.kitty-max(first, 1), 0)
	case [3]byte{'=', 0, 'u'}:
		m.kittySet = first != 0
	}
}

func (m *Modes) set(mode int, on bool) {
	for i, p := range private {
		if p.mode == mode {
			m.changed[i] = on != p.on
		}
	}
}

// Off is what to write to the terminal to have its defaults back; nothing when it has them.
func (m *Modes) Off() []byte {
	var b []byte
	if m.state != ground {
		b = append(b, 0x18) // what was begun shall not swallow what follows
	}
	if m.kitty > 0 {
		b = append(strconv.AppendInt(append(b, "\x1b[<"...), int64(m.kitty), 10), 'u')
	}
	if m.kittySet {
		b = append(b, "\x1b[=0u"...)
	}
	if m.modKeys {
		b = append(b, "\x1b[>4m"...)
	}
	if m.keypad {
		b = append(b, "\x1b>"...)
	}
	if m.charset {
		b = append(b, "\x0f\x1b(B"...)
	}
	if m.region { // setting the region moves the cursor
		b = append(b, "\x1b7\x1b[r\x1b8"...)
	}
	b = m.modes(b, false)
	if m.cursor {
		b = append(b, "\x1b[0 q"...)
	}
	if m.style {
		b = append(b, "\x1b[m"...)
	}
	return b
}

// On is what to write to the terminal to have the modes again that Off has switched off, but for what a program writes anew
// when it draws.
func (m *Modes) On() []byte {
	b := m.modes(nil, true)
	if m.keypad {
		b = append(b, "\x1b="...)
	}
	return b
}

// modes appends the sequences that give the private modes their changed or their default value.
func (m *Modes) modes(b []byte, changed bool) []byte {
	for i, p := range private {
		if !m.changed[i] {
			continue
		}
		b = strconv.AppendInt(append(b, "\x1b[?"...), int64(p.mode), 10)
		if p.on != changed {
			b = append(b, 'h')
		} else {
			b = append(b, 'l')
		}
	}
	return b
}
