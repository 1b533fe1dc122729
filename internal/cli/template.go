package cli

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

func templateCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use: "template", Short: "Look after templates, which starts go on from",
		Long: "A template is a microVM that has booted an image, saved before a sandbox had it. The first start of a kernel, image and size takes one;\n" +
			"others go on from it, and share its memory until they write to it. A change of any of these makes another. [templates] max_size_mib\n" +
			"and max_age_days of the user's configuration bound what is kept; a size of 0 turns templates off.",
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(templateListCommand(e), templateRmCommand(e))
	return cmd
}

func templateListCommand(e *env) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the templates", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.withClient(cmd.Context(), func(c *client.Client) error {
				list, err := c.Templates(cmd.Context())
				switch {
				case err != nil:
					return err
				case e.json:
					return e.printJSON(list)
				case quiet:
					for _, t := range list {
						fmt.Fprintln(e.out, t.Id)
					}
					return nil
				}
				w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', 0)
				fmt.Fprintln(w, "ID\tIMAGE\tENGINE\tVCPUS\tMEMORY\tDISKS\tSIZE\tCREATED\tUSED")
				for _, t := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d MiB\t%d\t%s\t%s ago\t%s ago\n", t.Id, t.Image, t.Engine, t.Vcpus, t.MemoryMib, t.Disks,
						units.BytesSize(float64(t.SizeBytes)), units.HumanDuration(time.Since(t.CreatedAt)), units.HumanDuration(time.Since(t.UsedAt)))
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	return cmd
}

func templateRmCommand(e *env) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "rm [--all] [ID…]", Short: "Remove templates; sandboxes that came of them go on",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return sandbox.Errorf(sandbox.Invalid, "agentkernel template ls shows all", "give the ids of templates, or --all")
			}
			return e.withClient(cmd.Context(), func(c *client.Client) error {
				if all {
					list, err := c.Templates(cmd.Context())
					if err != nil {
						return err
					}
					for _, t := range list {
						args = append(args, t.Id)
					}
				}
				removed := []string{}
				var errs []error
				for _, id := range args {
					if err := c.RemoveTemplate(cmd.Context(), id); err != nil {
						errs = append(errs, err)
						continue
					}
					removed = append(removed, id)
					if !e.json {
						fmt.Fprintln(e.out, id)
					}
				}
				if e.json {
					errs = append(errs, e.printJSON(removed))
				}
				return errors.Join(errs...)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove all of them")
	return cmd
}
