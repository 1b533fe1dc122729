package cli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/image"
)

func imageListCommand(e *env) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the images", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			store, _, err := imageStore()
			if err != nil {
				return err
			}
			list, problems, err := store.List()
			if err != nil {
				return err
			}
			for _, p := range problems {
				fmt.Fprintln(e.errOut, "agentkernel: warning:", p)
			}
			if e.json {
				if list == nil {
					list = []image.Manifest{}
				}
				return e.printJSON(list)
			}
			if quiet {
				for _, m := range list {
					fmt.Fprintln(e.out, m.Digest)
				}
				return nil
			}
			w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tARCH\tFORMAT\tSIZE\tCREATED\tDIGEST")
			for _, m := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s ago\t%.19s\n", m.Name, m.Arch, m.FS, units.HumanSize(float64(m.Size)), units.HumanDuration(time.Since(m.Created)), m.Digest)
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print digests alone")
	return cmd
}
