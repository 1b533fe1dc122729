package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/asciicast"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/terminal"
)

// recordFlags say whether and where a command's terminal is recorded.
type recordFlags struct {
	file             string
	input, overwrite bool
}

func (f *recordFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.file, "record", "", "record the output to a file (asciicast v2), for replay")
	fs.BoolVar(&f.input, "record-input", false, "record what is typed as well, passwords included")
	fs.BoolVar(&f.overwrite, "record-overwrite", false, "replace the file of --record if there is one")
}

// create begins a recording; it is nil when none is asked for. A size of 0 is taken as 80 by 24.
func (f *recordFlags) create(command []string, size terminal.Size, term string) (*asciicast.Writer, error) {
	if f.file == "" {
		if f.input || f.overwrite {
			return nil, sandbox.Errorf(sandbox.Invalid, "add --record FILE", "--record-input and --record-overwrite say how to record, and nothing is recorded")
		}
		return nil, nil
	}
	if size.Rows == 0 || size.Cols == 0 {
		size = terminal.Size{Rows: 24, Cols: 80}
	}
	h := asciicast.Header{Width: size.Cols, Height: size.Rows, Command: strings.Join(command, " ")}
	if term != "" {
		h.Env = map[string]string{"TERM": term}
	}
	w, err := asciicast.Create(f.file, h, f.overwrite)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil, sandbox.Errorf(sandbox.Exists, "choose another name, or add --record-overwrite", "the recording %s exists", f.file)
	case err != nil:
		return nil, fmt.Errorf("record: %w", err)
	}
	return w, nil
}

// screenSize is the size of the terminal that a command's output goes to; 0 when there is none.
func (e *env) screenSize() terminal.Size {
	for _, v := range []any{e.out, e.in, e.errOut} {
		if f := terminal.File(v); f != nil {
			if size, err := terminal.SizeOf(f); err == nil {
				return size
			}
		}
	}
	return terminal.Size{}
}

// endRecording closes a recording after its command has ended with err, and returns the error to end with. When nothing was
// recorded because the command did not run, no file is left.
func (e *env) endRecording(w *asciicast.Writer, err error) error {
	end := w.Close
	if err != nil && !errors.As(err, new(exitError)) {
		end = w.Discard
	}
	if recErr := end(); recErr != nil {
		fmt.Fprintf(e.errOut, "agentkernel: the recording is incomplete: %v\n", recErr)
		if err == nil {
			return exitError(exitOurs)
		}
	}
	return err
}

// hostTerm is the kind of this terminal, as programs in the guest are told.
func hostTerm() string {
	if t := os.Getenv("TERM"); t != "" {
		return t
	}
	return "xterm-256color"
}
