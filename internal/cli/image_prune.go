package cli

import (
	"fmt"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

func imagePruneCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "prune", Short: "Delete images that no name stands for and no sandbox uses", Args: cobra.NoArgs,
		Long: "Delete the images that no name stands for and no sandbox uses, what crashes left more than an hour ago, and the downloaded\nlayers of container images, which are kept to make the next pull faster.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, dirs, err := imageStore()
			if err != nil {
				return err
			}
			used, unlock, err := e.exclude(cmd.Context(), store)
			if err != nil {
				return err
			}
			defer unlock()
			freed, err := store.Prune(func(digest string) bool { return used[digest] != nil })
			if err != nil {
				return err
			}
			layers, err := layerCache(dirs).Prune()
			if err != nil {
				return err
			}
			freed += layers
			if e.json {
				return e.printJSON(map[string]int64{"freed_bytes": freed})
			}
			_, err = fmt.Fprintf(e.out, "freed %s\n", units.HumanSize(float64(freed)))
			return err
		},
	}
}
