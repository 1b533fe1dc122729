package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

func forkCommand(e *env) *cobra.Command {
	var o client.ForkOptions
	var quiet bool
	cmd := &cobra.Command{
		Use: "fork NAME", Short: "Make running copies of a running sandbox, with its memory and all that runs in it", Args: cobra.ExactArgs(1),
		Long: "Make running copies of a running or paused sandbox, with its memory and all that runs in it, and print their names. A command that a\n" +
			"client is connected to stays with the original. Published ports of a copy are free ones (agentkernel port).",
		Example: "  agentkernel fork my-project -n 5 --name try",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Name != "" {
				if err := sandbox.ValidateName(o.Name); err != nil {
					return err
				}
			}
			if o.Count < 1 { // which the SDK takes for one
				return sandbox.Errorf(sandbox.Invalid, "ask for at least 1", "%d forks cannot be had", o.Count)
			}
			return e.withClient(cmd.Context(), func(c *client.Client) error {
				list, err := c.Fork(cmd.Context(), args[0], o)
				if err != nil {
					return err
				}
				if e.json {
					return e.printJSON(list)
				}
				for _, sb := range list {
					if quiet {
						fmt.Fprintln(e.out, sb.Id)
					} else {
						fmt.Fprintln(e.out, sb.Name)
					}
				}
				return nil
			})
		},
	}
	fs := cmd.Flags()
	fs.IntVarP(&o.Count, "count", "n", 1, "how many")
	fs.StringVar(&o.Name, "name", "", "name of the copy, or with a count what their names begin with (default NAME, with a number)")
	fs.DurationVar(&o.Timeout, "timeout", 2*time.Minute, "how long the guest of each may take to answer")
	fs.BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	return cmd
}
