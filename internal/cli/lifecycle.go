package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// each runs f for every name, and goes on after an error; the errors are joined. With --json the sandboxes are printed,
// else the names as they are done.
func (e *env) each(ctx context.Context, names []string, f func(*client.Client, string) (any, error)) error {
	c, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var errs []error
	results := []any{}
	for _, name := range names {
		v, err := f(c, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		results = append(results, v)
		if !e.json {
			fmt.Fprintln(e.out, name)
		}
	}
	if e.json {
		if err := e.printJSON(results); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

func startCommand(e *env) *cobra.Command {
	var timeout time.Duration
	var cold bool
	cmd := &cobra.Command{
		Use: "start NAME…", Short: "Start the microVM of a sandbox and wait until it is ready", Args: cobra.MinimumNArgs(1),
		Long: "Start the microVM of a sandbox and wait until it is ready. A suspended sandbox, and one that was made from a snapshot and not started yet,\n" +
			"goes on from what was saved. Another goes on from a template: a microVM that has booted the same image before (agentkernel template).",
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) {
				return c.Start(cmd.Context(), name, client.StartOptions{Timeout: timeout, Cold: cold})
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long the guest may take to answer")
	cmd.Flags().BoolVar(&cold, "cold", false, "boot, whatever there is to go on from; the memory of a suspended sandbox is given up")
	return cmd
}

func stopCommand(e *env) *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use: "stop NAME…", Short: "Shut down the microVM of a sandbox; its disks are kept", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) {
				return c.Stop(cmd.Context(), name, grace)
			})
		},
	}
	graceFlag(cmd, &grace)
	return cmd
}

func restartCommand(e *env) *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use: "restart NAME…", Short: "Stop and start a sandbox", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) {
				if _, err := c.Stop(cmd.Context(), name, grace); err != nil {
					return nil, err
				}
				return c.Start(cmd.Context(), name, client.StartOptions{})
			})
		},
	}
	graceFlag(cmd, &grace)
	return cmd
}

func graceFlag(cmd *cobra.Command, grace *time.Duration) {
	cmd.Flags().DurationVarP(grace, "timeout", "t", 10*time.Second, "how long processes get between SIGTERM and SIGKILL; 0 kills the VMM at once")
}

func rmCommand(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm NAME…", Short: "Delete a sandbox and its disks", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) {
				return map[string]string{"removed": name}, c.Remove(cmd.Context(), name, force)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill a running microVM first")
	return cmd
}
