package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/agentkernel/agentkernel/internal/asciicast"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/terminal"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// checkTerminal refuses what has no meaning.
func (e *env) checkTerminal(f *execFlags) error {
	switch {
	case !f.tty || !f.interactive:
		return nil
	case !terminal.Is(e.in):
		return sandbox.Errorf(sandbox.Invalid, "leave out -t, or -i", "the input device is not a TTY")
	case e.json:
		return sandbox.Errorf(sandbox.Invalid, "leave out -i or --json", "--json has no meaning on an interactive terminal")
	}
	return nil
}

// setTerminal asks for a terminal as this one is.
func setTerminal(start *client.ExecStart, size terminal.Size) {
	yes := true
	start.Tty = &yes
	if size.Rows > 0 && size.Cols > 0 {
		start.Rows, start.Cols = &size.Rows, &size.Cols
	}
	vars := []string{"TERM=" + hostTerm()}
	if v := os.Getenv("COLORTERM"); v != "" {
		vars = append(vars, "COLORTERM="+v)
	}
	if start.Env != nil { // these come later, and count
		vars = append(vars, *start.Env...)
	}
	start.Env = &vars
}

// terminalUse says what is special about a command on this terminal.
type terminalUse struct {
	rec     *asciicast.Writer // nil when nothing is recorded
	input   bool              // what is typed is recorded as well
	running bool              // it runs already, and has not drawn for this terminal
}

// onTerminal has run talk to a command with this process's terminal in raw mode, and gives the terminal back.
func (e *env) onTerminal(ctx context.Context, streams client.ExecIO, use terminalUse, run func(context.Context, client.ExecIO) (client.Exit, error)) (client.Exit, error) {
	s, ctx, err := terminal.Raw(ctx, terminal.File(e.in), e.out)
	if err != nil {
		return client.Exit{}, err
	}
	defer s.Close()
	streams.Stdout = s.Writer(streams.Stdout)
	streams = recorded(streams, use.rec, use.input, false)
	ended, end := context.WithCancel(context.Background())
	defer end()
	streams.Sizes = passSizes(ended, s.Sizes(), use.rec)
	if use.running {
		s.Announce()
	}
	exit, err := run(ctx, streams)
	cutShort := err != nil || exit.Signal != 0
	if cutShort {
		err = errors.Join(err, s.Reset())
	}
	err = errors.Join(err, s.Close())
	if cutShort && s.Wrote() && terminal.Is(e.errOut) {
		fmt.Fprintln(e.errOut) // the cursor is wherever the program left it
	}
	var sig *terminal.SignalError
	if errors.As(context.Cause(ctx), &sig) {
		fmt.Fprintf(e.errOut, "agentkernel: %s ended the session\n", unix.SignalName(sig.Signal))
		return exit, exitError(128 + int(sig.Signal))
	}
	return exit, err
}

// passSizes passes sizes of this terminal on to a command and to a recording, if there is one, until ctx ends.
func passSizes(ctx context.Context, from <-chan terminal.Size, rec *asciicast.Writer) <-chan client.TerminalSize {
	to := make(chan client.TerminalSize)
	go func() {
		for {
			select {
			case size := <-from:
				if rec != nil {
					rec.Resized(size.Cols, size.Rows)
				}
				select {
				case to <- client.TerminalSize(size):
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}

// recorded has what passes through streams recorded, when rec is not nil. newlines is as in asciicast.Writer.Stream.
func recorded(streams client.ExecIO, rec *asciicast.Writer, input, newlines bool) client.ExecIO {
	if rec == nil {
		return streams
	}
	streams.Stdout = io.MultiWriter(streams.Stdout, rec.Stream(asciicast.Output, newlines))
	streams.Stderr = io.MultiWriter(streams.Stderr, rec.Stream(asciicast.Output, newlines))
	if input && streams.Stdin != nil {
		streams.Stdin = io.TeeReader(streams.Stdin, rec.Stream(asciicast.Input, false))
	}
	return streams
}
