package cli

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/image"
)

func imageBuildCommand(e *env) *cobra.Command {
	var busybox string
	cmd := &cobra.Command{
		Use: "build RECIPE", Short: "Build an image from a recipe: " + strings.Join(image.Recipes(), ", "), Args: cobra.ExactArgs(1),
		Long: "Build an image from a recipe that comes with agentkernel: " + strings.Join(image.Recipes(), ", ") + ".\nThe same busybox gives the same bytes, so building again changes nothing.",
	}
	arch := archFlag(cmd)
	cmd.Flags().StringVar(&busybox, "busybox", "", "static busybox of that architecture (default Debian's package busybox-static)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		store, dirs, err := imageStore()
		if err != nil {
			return err
		}
		o := image.BuildOptions{Busybox: busybox, CacheDir: filepath.Join(dirs.Cache(), "image"), Progress: func(line string) { fmt.Fprintln(e.errOut, "image:", line) }}
		if o.Arch, err = arch(); err != nil {
			return err
		}
		m, err := store.Build(cmd.Context(), args[0], o)
		if err != nil {
			return err
		}
		return e.printImage(m)
	}
	return cmd
}
