package cli

import (
	"io"

	"github.com/agentkernel/agentkernel/internal/terminal"
)

// terminalSafe is stdout for bytes of the guest that no terminal is meant to interpret: on a terminal, control characters
// but newline and tab are taken out; elsewhere nothing is changed.
func (e *env) terminalSafe() io.Writer {
	if terminal.Is(e.out) {
		return safeWriter{e.out}
	}
	return e.out
}

type safeWriter struct{ w io.Writer }

func (s safeWriter) Write(p []byte) (int, error) {
	safe := make([]byte, 0, len(p))
	for _, c := range p {
		// Bytes from 0x80 to 0x9f are C1 controls to an 8-bit terminal, but also parts of UTF-8 characters, which is what
		// terminals take today.
		if c == '\n' || c == '\t' || (c >= ' ' && c != 0x7f) {
			safe = append(safe, c)
		}
	}
	if _, err := s.w.Write(safe); err != nil {
		return 0, err
	}
	return len(p), nil
}
