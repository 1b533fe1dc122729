package terminal

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// File returns the file behind a reader or writer when it is a terminal, else nil.
func File(v any) *os.File {
	f, ok := v.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return f
}

// Is reports whether a reader or writer is a terminal.
func Is(v any) bool { return File(v) != nil }

// Size of a terminal, in characters.
type Size struct{ Rows, Cols int }

// SizeOf returns the size of a terminal. One that does not know its size, as a serial line, says 0 for both.
func SizeOf(f *os.File) (Size, error) {
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return Size{}, fmt.Errorf("ask the terminal for its size: %w", err)
	}
	return Size{rows, cols}, nil
}

// Redraw writes a frame of a live view in place of the one before: from the top left corner, each line cleared to its end,
// and what is below cleared as well. Lines end with \n, and must not be longer than the terminal is wide.
func Redraw(w io.Writer, frame []byte) error {
	out := append(make([]byte, 0, len(frame)+256), "\x1b[H"...)
	for _, c := range frame {
		if c == '\n' {
			out = append(out, "\x1b[K\r"...)
		}
		out = append(out, c)
	}
	_, err := w.Write(append(out, "\x1b[J"...))
	return err
}
