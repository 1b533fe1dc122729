package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/app"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/terminal"
)

func setupCommand(e *env) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use: "setup", Short: "Install the Firecracker that agentkernel is tested with", Args: cobra.NoArgs,
		Long: "Download the release of Firecracker that agentkernel is tested with, check its SHA-256, and put firecracker and jailer into\n" +
			"agentkernel's own directory. Nothing else on this host is changed, and no privileges are needed. Done again, it does\n" +
			"nothing; a download that broke off is taken up again.",
		Example: "  agentkernel setup\n  agentkernel setup --from firecracker-v1.16.1-x86_64.tgz   # on a host without internet",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := paths.Find(os.Getenv)
			if err != nil {
				return err
			}
			if from != "" {
				if from, err = filepath.Abs(from); err != nil {
					return err
				}
			}
			r, err := app.Setup(cmd.Context(), dirs, from, e.transfer("Firecracker"))
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(r)
			}
			if r.Installed {
				fmt.Fprintf(e.out, "Firecracker %s is installed: %s\n", r.Version, r.Firecracker)
			} else {
				fmt.Fprintf(e.out, "Firecracker %s was there already: %s\n", r.Version, r.Firecracker)
			}
			checks, err := app.Doctor(cmd.Context(), dirs)
			if err != nil {
				return err
			}
			for _, c := range checks {
				switch {
				case c.Name == "engine":
					fmt.Fprintf(e.out, "engine: %s\n", c.Detail)
				case c.Needed && !c.OK:
					fmt.Fprintf(e.out, "still missing: %s (%s)\n      fix: %s\n", c.Name, c.Detail, c.Fix)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "archive of the release, in place of a download")
	return cmd
}

// transfer returns a function that shows how far a download is: in place on a terminal, else a line for each tenth.
func (e *env) transfer(what string) func(done, total int64) {
	onTerminal := terminal.Is(e.errOut)
	shown := int64(-1)
	return func(done, total int64) {
		if total <= 0 {
			return
		}
		percent := 100 * done / total
		if !onTerminal {
			percent -= percent % 10
		}
		if percent == shown {
			return
		}
		shown = percent
		line := fmt.Sprintf("%s: %d %% of %s", what, percent, units.HumanSize(float64(total)))
		switch {
		case !onTerminal:
			fmt.Fprintln(e.errOut, line)
		case done == total:
			fmt.Fprintf(e.errOut, "\r\x1b[K%s\n", line)
		default:
			fmt.Fprintf(e.errOut, "\r\x1b[K%s", line)
		}
	}
}
