package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/pkg/client"
)

func suspendCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "suspend NAME…", Short: "Put the memory of a running sandbox on disk and end its VMM", Args: cobra.MinimumNArgs(1),
		Long: "Put the memory of a running or paused sandbox on disk, with all that runs in it, and end its VMM. resume, or start, has it go on as it\n" +
			"was; stop gives the memory up.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) { return c.Suspend(cmd.Context(), name) })
		},
	}
}

func resumeCommand(e *env) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "resume NAME…", Short: "Have a suspended sandbox go on", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) { return c.Resume(cmd.Context(), name, timeout) })
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long the guest may take to answer")
	return cmd
}
