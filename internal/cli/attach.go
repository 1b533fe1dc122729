package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/terminal"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// errDetached ends an attach at the user's wish.
var errDetached = errors.New("detached")

// detachKeys are Ctrl-P Ctrl-Q, as in docker.
var detachKeys = []byte{'p' & 0x1f, 'q' & 0x1f}

func attachCommand(e *env) *cobra.Command {
	var noStdin bool
	var record recordFlags
	cmd := &cobra.Command{
		Use: "attach NAME ID", Short: "Connect to a command that runs in the background", Args: cobra.ExactArgs(2),
		Long: "Connect stdin, stdout and stderr to a command that was started by exec -d, from now on; what it wrote before is shown by\n" +
			"logs --exec. stdin is connected to a command that was started with -i. Its exit code becomes this one's. On a terminal,\n" +
			"Ctrl-P Ctrl-Q leaves the command alone; elsewhere SIGINT and SIGTERM do.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			return e.attach(cmd.Context(), c, args[0], args[1], !noStdin, &record)
		},
	}
	record.register(cmd)
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not connect stdin")
	return cmd
}

func (e *env) attach(ctx context.Context, c *client.Client, name, id string, stdin bool, record *recordFlags) (err error) {
	info, err := c.ExecInfo(ctx, name, id)
	if err != nil {
		return err
	}
	onTerminal := info.Tty && stdin && terminal.Is(e.in)
	if onTerminal && e.json {
		return sandbox.Errorf(sandbox.Invalid, "leave out --json, or use --no-stdin", "--json has no meaning on an interactive terminal")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	streams := client.ExecIO{Stdout: e.out, Stderr: e.errOut, Dropped: func(n int64) { fmt.Fprintf(e.errOut, "agentkernel: %d bytes of output came too fast\n", n) }}
	if stdin {
		streams.Stdin = e.in
	}
	attach := func(ctx context.Context, streams client.ExecIO) (client.Exit, error) {
		return c.Attach(ctx, name, info.Id, client.AttachOptions{Follow: true}, streams)
	}
	rec, err := record.create(info.Argv, e.screenSize(), hostTerm())
	if err != nil {
		return err
	}
	if rec != nil {
		defer func() { err = e.endRecording(rec, err) }()
	}
	var exit client.Exit
	if onTerminal {
		streams.Stdin = &detachReader{r: e.in, detach: func() { cancel(errDetached) }}
		exit, err = e.onTerminal(ctx, streams, terminalUse{rec: rec, input: record.input, running: true}, attach)
	} else {
		exit, err = attach(ctx, recorded(streams, rec, record.input, !info.Tty))
	}
	if errors.Is(context.Cause(ctx), errDetached) {
		fmt.Fprintln(e.errOut, "detached")
		return nil
	}
	return e.execResult(exit, err, 0)
}

// detachReader calls detach when the detach keys are typed one after the other, and ends then. The first one is held back
// until it is known what follows.
type detachReader struct {
	r      io.Reader
	detach func()
	held   bool // the first of the keys was typed
}

func (d *detachReader) Read(p []byte) (int, error) {
	if len(p) < 2 {
		return 0, io.ErrShortBuffer
	}
	for {
		n, err := d.r.Read(p[1:])
		in := p[1 : 1+n]
		if d.held && n > 0 { // it comes before what was read now
			p[0] = detachKeys[0]
			in = p[:1+n]
			d.held = false
		}
		if i := bytes.Index(in, detachKeys); i >= 0 {
			d.detach()
			return copy(p, in[:i]), io.EOF
		}
		if len(in) > 0 && in[len(in)-1] == detachKeys[0] && err == nil {
			d.held = true
			in = in[:len(in)-1]
		}
		if len(in) > 0 || err != nil {
			return copy(p, in), err
		}
	}
}
