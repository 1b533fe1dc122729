package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/pkg/client"
)

func psCommand(e *env) *cobra.Command {
	var all, quiet bool
	list := listCommand(e)
	cmd := &cobra.Command{
		Use: "ps [NAME]", Short: "List the commands that run in a sandbox; without a name, the sandboxes", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				if err := list.Flags().Set("quiet", fmt.Sprint(quiet)); err != nil {
					return err
				}
				return list.RunE(cmd, nil)
			}
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			return e.execs(cmd.Context(), c, args[0], all, quiet)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "show commands that have ended as well, as far as they are remembered")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	return cmd
}

func (e *env) execs(ctx context.Context, c *client.Client, name string, all, quiet bool) error {
	list, err := c.Execs(ctx, name)
	if err != nil {
		return err
	}
	shown := make([]client.ExecInfo, 0, len(list))
	for _, x := range list {
		if all || x.EndedAt == nil {
			shown = append(shown, x)
		}
	}
	if e.json {
		return e.printJSON(map[string]any{"execs": shown})
	}
	if quiet {
		for _, x := range shown {
			fmt.Fprintln(e.out, x.Id)
		}
		return nil
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tPID\tUSER\tSTARTED\tSTATUS\tCOMMAND")
	for _, x := range shown {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s ago\t%s\t%s\n", x.Id, x.Pid, x.User, strings.ToLower(units.HumanDuration(time.Since(x.StartedAt))), execStatus(x), strings.Join(x.Argv, " "))
	}
	return w.Flush()
}

// execStatus says what a command is doing, or how it ended.
func execStatus(x client.ExecInfo) string {
	flag := func(p *bool) bool { return p != nil && *p }
	switch {
	case x.EndedAt == nil && x.Detached:
		return "background"
	case x.EndedAt == nil:
		return "running"
	case flag(x.Stayed):
		return "stayed with the original"
	case flag(x.TimedOut):
		return "timed out"
	case flag(x.OomKilled):
		return "out of memory"
	case x.Signal != nil:
		return fmt.Sprintf("signal %d", *x.Signal)
	case x.Code != nil:
		return fmt.Sprintf("exited %d", *x.Code)
	}
	return "ended"
}

// exitStatus is what a shell would report for a command that has ended.
func exitStatus(x client.ExecInfo) int {
	switch {
	case x.Signal != nil:
		return 128 + *x.Signal
	case x.Code != nil:
		return *x.Code
	}
	return 0
}
