package cli

import (
	"path/filepath"

	"github.com/spf13/cobra"
)

func imageImportCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "import FILE NAME", Short: "Put an erofs, squashfs or ext4 file into the store under a name", Args: cobra.ExactArgs(2)}
	arch := archFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		store, _, err := imageStore()
		if err != nil {
			return err
		}
		a, err := arch()
		if err != nil {
			return err
		}
		path, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		m, err := store.Import(cmd.Context(), path, args[1], a, path)
		if err != nil {
			return err
		}
		return e.printImage(m)
	}
	return cmd
}
