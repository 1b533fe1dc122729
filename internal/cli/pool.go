package cli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/pkg/client"
)

func poolCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "pool", Short: "Show the microVMs that are kept ready", Args: cobra.NoArgs,
		Long: "Show the microVMs that are kept ready. [pool] size of the user's configuration says how many of each of its images, such as\n" +
			"images = \"base, python\", and max how many in all. A sandbox of such an image and of the default size, without a project or volumes, gets one\n" +
			"when it is made; it must then be started within 10 seconds. They give way when the host gets short of memory.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.withClient(cmd.Context(), func(c *client.Client) error {
				p, err := c.Pool(cmd.Context())
				switch {
				case err != nil:
					return err
				case e.json:
					return e.printJSON(p)
				}
				if p.OnHold != nil {
					fmt.Fprintln(e.errOut, "agentkernel: warning: no microVM is made for the pool:", *p.OnHold)
				}
				w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', 0)
				fmt.Fprintln(w, "IMAGE\tREADY\tSTATE")
				for _, i := range p.Images {
					fmt.Fprintf(w, "%s\t%d of %d\t%s\n", i.Image, i.Ready, p.Size, poolState(i.Making, i.Error, i.RetryAt))
				}
				return w.Flush()
			})
		},
	}
}

func poolState(making bool, problem *string, retry *time.Time) string {
	switch {
	case making:
		return "one is being made"
	case problem != nil && retry != nil:
		return fmt.Sprintf("tried again at %s: %s", retry.Local().Format(time.TimeOnly), *problem)
	}
	return "-"
}
