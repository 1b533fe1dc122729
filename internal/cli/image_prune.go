package cli

import (
	"fmt"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

func imagePruneCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "prune", Short: "Delete what no name stands for and no sandbox uses, after an hour", Args: cobra.NoArgs,
		Long: "Delete the images that no name stands for and no sandbox uses, when they are older than an hour, and the downloaded layers of\ncontainer images, which are kept to make the next pull faster.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, dirs, err := imageStore()
			if err != nil {
				return err
			}
			used, err := e.digestsInUse(cmd.Context())
			if err != nil {
				return err
			}
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
