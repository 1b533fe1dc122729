package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/image"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func imageCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Build, import and list images"}
	cmd.AddCommand(imageBuildCommand(e), imageImportCommand(e), imageListCommand(e), imageRmCommand(e), imageVerifyCommand(e), imagePruneCommand(e))
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
	value := cmd.Flags().String("arch", "", "architecture: x86_64 or aarch64 (default this host's)")
	return func() (sandbox.Arch, error) {
		arch, err := kernelArch(*value)
		return sandbox.Arch(arch), err
	}
}

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

func (e *env) printImage(m image.Manifest) error {
	if e.json {
		return e.printJSON(m)
	}
	_, err := fmt.Fprintf(e.out, "%s %s %s\n", m.Name, m.Digest, units.HumanSize(float64(m.Size)))
	return err
}

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

// digestsInUse are those of all sandboxes. Records that cannot be read may use anything, so they are an error.
func (e *env) digestsInUse(ctx context.Context) (map[string][]string, error) {
	c, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	list, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	if list.Problems != nil {
		return nil, sandbox.Errorf(sandbox.Conflict, "repair or delete these records first", "which images are in use is not known: %s", strings.Join(*list.Problems, "; "))
	}
	used := map[string][]string{}
	for _, sb := range list.Sandboxes {
		used[sb.ImageDigest] = append(used[sb.ImageDigest], sb.Name)
	}
	return used, nil
}

func imageRmCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "rm NAME", Short: "Remove an image that no sandbox uses"}
	return e.imageNamed(cmd, func(ctx context.Context, store *image.Store, m image.Manifest) error {
		used, err := e.digestsInUse(ctx)
		if err != nil {
			return err
		}
		if names := used[m.Digest]; names != nil {
			return sandbox.Errorf(sandbox.Conflict, "remove them first: agentkernel rm "+strings.Join(names, " "), "image %q is in use by %s", m.Name, strings.Join(names, ", "))
		}
		return store.Remove(m.Name, m.Arch)
	})
}

func imageVerifyCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "verify NAME", Short: "Read a whole image and compare it with its digest"}
	return e.imageNamed(cmd, func(ctx context.Context, store *image.Store, m image.Manifest) error {
		_, err := store.Verify(ctx, m.Name, m.Arch)
		return err
	})
}

func imagePruneCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "prune", Short: "Delete what no name stands for and no sandbox uses, after an hour", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, _, err := imageStore()
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
			if e.json {
				return e.printJSON(map[string]int64{"freed_bytes": freed})
			}
			_, err = fmt.Fprintf(e.out, "freed %s\n", units.HumanSize(float64(freed)))
			return err
		},
	}
}
