package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func imageCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Pull, build, import and list images"}
	cmd.AddCommand(imagePullCommand(e), imageLoadCommand(e), imageBuildCommand(e), imageImportCommand(e), imageListCommand(e), imageInspectCommand(e), imageHistoryCommand(e), imageRmCommand(e), imageVerifyCommand(e), imagePruneCommand(e))
	return cmd
}

func imageStore() (*image.Store, paths.Dirs, error) {
	dirs, err := paths.Find(os.Getenv)
	if err != nil {
		return nil, dirs, err
	}
	return image.Open(dirs.Images()), dirs, nil
}

// imageNamed makes a command about one image of the store: f gets the image that NAME and --arch stand for.
func (e *env) imageNamed(cmd *cobra.Command, f func(context.Context, *image.Store, image.Manifest) error) *cobra.Command {
	cmd.Args = cobra.ExactArgs(1)
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
		m, err := store.Get(args[0], a)
		if err != nil {
			return err
		}
		if err := f(cmd.Context(), store, m); err != nil {
			return err
		}
		return e.printImage(m)
	}
	return cmd
}

// archFlag adds --arch to a command. The returned function gives its value when the command runs.
func archFlag(cmd *cobra.Command) func() (sandbox.Arch, error) {
	value := cmd.Flags().String("arch", "", "architecture: x86_64 or aarch64 (default this host's); --platform linux/arm64 says the same")
	platformToo(cmd.Flags())
	return func() (sandbox.Arch, error) {
		arch, err := kernelArch(*value)
		return sandbox.Arch(arch), err
	}
}

func (e *env) printImage(m image.Manifest) error {
	if e.json {
		return e.printJSON(m)
	}
	_, err := fmt.Fprintf(e.out, "%s %s %s\n", m.Name, m.Digest, units.HumanSize(float64(m.Size)))
	return err
}
