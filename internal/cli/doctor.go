package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/app"
	"github.com/agentkernel/agentkernel/internal/paths"
)

func doctorCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what this host can do, and what to install", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := paths.Find(os.Getenv)
			if err != nil {
				return err
			}
			checks, err := app.Doctor(cmd.Context(), dirs)
			if err != nil {
				return err
			}
			if e.json {
				if err := e.printJSON(checks); err != nil {
					return err
				}
			}
			missing := false
			for _, c := range checks {
				mark := "ok  "
				if !c.OK {
					mark = "no  "
					missing = missing || c.Needed
				}
				if e.json {
					continue
				}
				fmt.Fprintf(e.out, "%s%s: %s\n", mark, c.Name, c.Detail)
				if !c.OK && c.Fix != "" {
					fmt.Fprintf(e.out, "      fix: %s\n", c.Fix)
				}
			}
			if missing {
				return exitError(exitOurs)
			}
			return nil
		},
	}
}
