package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

func logsCommand(e *env) *cobra.Command {
	var exec string
	var follow bool
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Print what the microVM wrote to its console, or what a command in the background wrote", Args: cobra.ExactArgs(1),
		Long: "Print what the microVM wrote to its console, as far as it is kept. With --exec, print the output of a command that was\n" +
			"started by exec -d, to stdout and stderr as it wrote it: its last 128 KiB, and with -f all that comes until its end.",
		Example: "  agentkernel logs my-project\n  agentkernel logs my-project --exec 3f9a -f",
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow && exec == "" {
				return sandbox.Errorf(sandbox.Invalid, "give the id of a command with --exec", "the console cannot be followed")
			}
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			if exec != "" {
				return e.execLogs(cmd.Context(), c, args[0], exec, follow)
			}
			if e.json {
				var text bytes.Buffer
				if err := c.Logs(cmd.Context(), args[0], &text); err != nil {
					return err
				}
				return e.printJSON(map[string]string{"name": args[0], "console": strings.ToValidUTF8(text.String(), "\uFFFD")})
			}
			return c.Logs(cmd.Context(), args[0], e.terminalSafe())
		},
	}
	cmd.Flags().StringVar(&exec, "exec", "", "id of a command in the background")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what the command writes, until its end")
	return cmd
}

// execLogs prints the output of a command in the background.
func (e *env) execLogs(ctx context.Context, c *client.Client, name, id string, follow bool) error {
	streams := client.ExecIO{Stdout: e.terminalSafe(), Stderr: e.errOut, Dropped: func(n int64) { fmt.Fprintf(e.errOut, "agentkernel: %d bytes of output are not kept any more\n", n) }}
	if e.json {
		enc := json.NewEncoder(e.out)
		streams.Stdout, streams.Stderr = jsonWriter{enc, "stdout"}, jsonWriter{enc, "stderr"}
		streams.Dropped = func(n int64) { _ = enc.Encode(map[string]any{"type": "dropped", "bytes": n}) }
	}
	_, err := c.Attach(ctx, name, id, client.AttachOptions{History: true, Follow: follow}, streams)
	return err
}
