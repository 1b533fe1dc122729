package cli

import (
	"github.com/spf13/cobra"
)

func imageLoadCommand(e *env) *cobra.Command {
	var f convertFlags
	var quiet bool
	cmd := &cobra.Command{
		Use: "load FILE|DIR|-", Short: "Put container images from an archive into the store", Args: cobra.ExactArgs(1),
		Long:    "Put the container images of an archive into the store: what docker save or podman save wrote, or an OCI image layout, as a\ndirectory or an archive. - reads it from stdin.",
		Example: "  docker save my-image | agentkernel image load -",
	}
	f.register(cmd)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print digests alone, and no progress")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		store, dirs, err := imageStore()
		if err != nil {
			return err
		}
		o, err := f.options(e, dirs)
		if err != nil {
			return err
		}
		if quiet {
			o.Tell = nil
		}
		list, err := store.Load(cmd.Context(), args[0], e.in, o)
		if e.json && err == nil {
			return e.printJSON(list)
		}
		for _, m := range list {
			if err := e.printPulled(m, quiet); err != nil {
				return err
			}
		}
		return err
	}
	return cmd
}
