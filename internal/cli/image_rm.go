package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// digestsInUse names who uses which image. Records that cannot be read may use anything, so they are an error.
func (e *env) digestsInUse(ctx context.Context) (map[string][]string, error) {
	c, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	list, err := c.ImageUses(ctx)
	if err != nil {
		return nil, err
	}
	if list.Problems != nil {
		return nil, sandbox.Errorf(sandbox.Conflict, "repair or delete these records first", "which images are in use is not known: %s", strings.Join(*list.Problems, "; "))
	}
	used := map[string][]string{}
	for _, u := range list.Uses {
		who := u.Sandbox
		if u.Snapshot != nil {
			who = "snapshot " + *u.Snapshot
		}
		used[u.Digest] = append(used[u.Digest], who)
	}
	return used, nil
}

// exclude has the store to itself, and tells what is in use. The caller calls unlock when nothing is to be removed any more.
func (e *env) exclude(ctx context.Context, store *image.Store) (used map[string][]string, unlock func(), err error) {
	unlock, err = store.Exclude(ctx, func() {
		fmt.Fprintln(e.errOut, "image: waiting for somebody who puts an image into the store or takes one out of it")
	})
	if err != nil {
		return nil, nil, err
	}
	if used, err = e.digestsInUse(ctx); err != nil {
		unlock()
		return nil, nil, err
	}
	return used, unlock, nil
}

func imageRmCommand(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm NAME", Short: "Remove an image that no sandbox uses",
		Long: "Remove an image that no sandbox uses: its name, and the image unless it has another name. With --force the name goes although sandboxes use the image: they go on using it, and it is\n" +
			"deleted by image prune when the last of them has been removed.",
	}
	e.imageNamed(cmd, func(ctx context.Context, store *image.Store, m image.Manifest) error {
		used, unlock, err := e.exclude(ctx, store)
		if err != nil {
			return err
		}
		defer unlock()
		if names := used[m.Digest]; names != nil {
			if !force {
				return sandbox.Errorf(sandbox.Conflict, "remove them first, with agentkernel rm and agentkernel snapshot rm; or take the name away with --force", "image %q is in use by %s", m.Name, strings.Join(names, ", "))
			}
			fmt.Fprintf(e.errOut, "agentkernel: warning: %s still in use by %s\n", m.Digest, strings.Join(names, ", "))
		}
		_, err = store.Remove(m.Name, m.Arch, func(digest string) bool { return used[digest] != nil })
		return err
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "remove the name although sandboxes use the image")
	return cmd
}
