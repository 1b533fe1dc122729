package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/asciicast"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/terminal"
)

func replayCommand(e *env) *cobra.Command {
	var speed, idle float64
	cmd := &cobra.Command{
		Use: "replay [flags] FILE", Short: "Play a recording of a terminal",
		Long: "Play a recording of a terminal: a file of exec --record or shell --record, or any other asciicast v2; - reads stdin.\n" +
			"Ctrl-C ends it. With --json nothing is played: what was recorded is described.",
		Example: "  agentkernel replay --speed 2 --idle-limit 1 session.cast",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if math.IsNaN(speed) || speed < 0.001 || speed > 1e6 {
				return sandbox.Errorf(sandbox.Invalid, "use 0.001 to 1000000; 2 is twice as fast", "--speed %v is out of range", speed)
			}
			if math.IsNaN(idle) || idle < 0 || idle > 1e9 {
				return sandbox.Errorf(sandbox.Invalid, "give seconds", "--idle-limit %v is out of range", idle)
			}
			in, name := e.in, "stdin"
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("open the recording: %w", err)
				}
				defer f.Close()
				in, name = f, args[0]
			}
			r, err := asciicast.NewReader(in)
			if err == nil && e.json {
				err = e.describeRecording(r)
			} else if err == nil {
				err = e.replay(cmd.Context(), r, asciicast.Pace{Speed: speed, Idle: time.Duration(idle * float64(time.Second))})
			}
			var bad *asciicast.SyntaxError
			if errors.As(err, &bad) {
				return sandbox.Errorf(sandbox.Invalid, "", "%s:%w", name, bad)
			}
			return err
		},
	}
	cmd.Flags().Float64Var(&speed, "speed", 1, "play so many times as fast")
	cmd.Flags().Float64Var(&idle, "idle-limit", 0, "cut pauses to so many seconds (default the recording's own limit, or none)")
	return cmd
}

// replay plays a recording on stdout; on a terminal, with the terminal's own handling of output switched off, as it was
// recorded behind that of the guest.
func (e *env) replay(ctx context.Context, r *asciicast.Reader, pace asciicast.Pace) error {
	screen := terminal.File(e.out)
	if screen == nil {
		return asciicast.Play(ctx, r, e.out, pace)
	}
	if size, err := terminal.SizeOf(screen); err == nil && size.Rows > 0 && (size.Rows < r.Header.Height || size.Cols < r.Header.Width) {
		fmt.Fprintf(e.errOut, "agentkernel: warning: the recording has %d columns and %d rows, this terminal %d and %d\n",
			r.Header.Width, r.Header.Height, size.Cols, size.Rows)
	}
	s, ctx, err := terminal.Playback(ctx, screen, e.out)
	if err != nil {
		return err
	}
	defer s.Close()
	err = asciicast.Play(ctx, r, terminal.NewMute(s.Writer(e.out)), pace)
	var sig *terminal.SignalError
	if errors.As(err, &sig) {
		err = exitError(128 + int(sig.Signal))
	}
	return errors.Join(err, s.Reset(), s.Close())
}

// describeRecording reads a recording to its end.
func (e *env) describeRecording(r *asciicast.Reader) error {
	counts := map[string]int{}
	var last time.Duration
	for {
		ev, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch ev.Code {
		case asciicast.Output, asciicast.Input, asciicast.Resize, asciicast.Marker:
			counts[ev.Code]++
		default:
			counts["other"]++
		}
		last = max(last, ev.Time)
	}
	return e.printJSON(map[string]any{"header": r.Header, "duration_seconds": last.Seconds(), "events": counts})
}
