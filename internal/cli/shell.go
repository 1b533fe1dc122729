package cli

import (
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/terminal"
)

func shellCommand(e *env) *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use: "shell [flags] NAME", Short: "Open a shell in a running sandbox",
		Long: "Open the login shell of the image in a running sandbox, on this terminal. It begins in /workspace if there is one. When\n" +
			"stdin is no terminal, the shell reads its commands from there. Its exit code becomes this one's.",
		Example: "  agentkernel shell my-project\n  agentkernel shell --record session.cast my-project",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			start, err := f.start(nil)
			if err != nil {
				return err
			}
			yes := true
			start.Shell = &yes
			f.interactive, f.tty = true, terminal.Is(e.in)
			c, err := e.connectLate()
			if err != nil {
				return err
			}
			defer c.Close()
			return e.exec(c, args[0], start, &f)
		},
	}
	f.registerCommon(cmd)
	return cmd
}
