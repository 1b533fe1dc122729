package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/image"
)

func imageVerifyCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "verify NAME", Short: "Read a whole image and compare it with its digest"}
	return e.imageNamed(cmd, func(ctx context.Context, store *image.Store, m image.Manifest) error {
		_, err := store.Verify(ctx, m.Name, m.Arch)
		return err
	})
}
