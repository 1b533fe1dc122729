package cli

import (
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/pkg/client"
)

func pauseCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "pause NAME…", Short: "Halt the vCPUs of a running sandbox; its memory stays", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) { return c.Pause(cmd.Context(), name) })
		},
	}
}

func unpauseCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "unpause NAME…", Short: "Let a paused sandbox go on", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) { return c.Unpause(cmd.Context(), name) })
		},
	}
}
