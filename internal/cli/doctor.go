package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/app"
	"github.com/agentkernel/agentkernel/internal/paths"
)

func doctorCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what this host can do, and what to install", Args: cobra.NoArgs,
		Long: "Look at all that sandboxes need of this host, without starting anything. What is marked FAIL keeps every sandbox from\n" +
			"running, and the exit code is 1 then; a warning is about how well or how safely they run.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := paths.Find(os.Getenv)
			if err != nil {
				return err
			}
			checks, err := app.Doctor(cmd.Context(), dirs)
			if err != nil {
				return err
			}
			type judged struct {
				app.Check
				Severity string `json:"severity"`
			}
			list := make([]judged, len(checks))
			missing := false
			for i, c := range checks {
				list[i] = judged{c, c.Severity()}
				missing = missing || c.Needed && !c.OK
			}
			if e.json {
				if err := e.printJSON(list); err != nil {
					return err
				}
				list = nil
			}
			for _, c := range list {
				mark := c.Severity
				if c.Needed && !c.OK {
					mark = strings.ToUpper(mark)
				}
				fmt.Fprintf(e.out, "%-5s%s: %s\n", mark, c.Name, c.Detail)
				if !c.OK && c.Fix != "" {
					fmt.Fprintf(e.out, "      fix: %s\n", c.Fix)
				}
			}
			if missing {
				return exitError(1)
			}
			return nil
		},
	}
}
