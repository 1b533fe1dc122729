package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

func volumeCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use: "volume", Short: "Make and look after volumes",
		Long: "A volume is a file system that sandboxes name (create --volume NAME:/path) and that outlives them. One running sandbox can write\n" +
			"to it, or any number can read it (NAME:/path:ro).",
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(volumeCreateCommand(e), volumeListCommand(e), volumeInspectCommand(e), volumeRmCommand(e))
	return cmd
}

func volumeCreateCommand(e *env) *cobra.Command {
	var size string
	var quiet bool
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make an empty volume", Args: cobra.ExactArgs(1),
		Long:    "Make an empty volume. Its size is what it can hold; of the host's disk it takes what is written to it.",
		Example: "  agentkernel volume create cache --size 20G\n  agentkernel run --volume cache:/var/cache/build -- make",
		RunE: func(cmd *cobra.Command, args []string) error {
			mib := 0
			if cmd.Flags().Changed("size") {
				var err error
				if mib, err = mebibytes("--size", size); err != nil {
					return err
				}
				if err := sandbox.ValidateVolume(args[0], mib); err != nil {
					return err
				}
			}
			return e.withClient(cmd.Context(), func(c *client.Client) error {
				v, err := c.CreateVolume(cmd.Context(), args[0], mib)
				switch {
				case err != nil:
					return err
				case e.json:
					return e.printJSON(v)
				case quiet:
					fmt.Fprintln(e.out, v.Id)
				default:
					fmt.Fprintln(e.out, v.Name)
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&size, "size", "", fmt.Sprintf("size, such as 512M or 20G (default %dG)", sandbox.DefaultVolumeMiB/1024))
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the id alone")
	return cmd
}

func volumeListCommand(e *env) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the volumes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.withClient(cmd.Context(), func(c *client.Client) error {
				list, err := c.Volumes(cmd.Context())
				if err != nil {
					return err
				}
				if e.json {
					return e.printJSON(list)
				}
				if list.Problems != nil {
					for _, p := range *list.Problems {
						fmt.Fprintln(e.errOut, "agentkernel: warning:", p)
					}
				}
				if quiet {
					for _, v := range list.Volumes {
						fmt.Fprintln(e.out, v.Id)
					}
					return nil
				}
				w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', 0)
				fmt.Fprintln(w, "NAME\tSIZE\tUSED\tCREATED\tSANDBOXES")
				for _, v := range list.Volumes {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s ago\t%s\n", v.Name, units.BytesSize(float64(v.SizeMib)*(1<<20)), units.BytesSize(float64(v.UsedBytes)), units.HumanDuration(time.Since(v.CreatedAt)), volumeUsers(v))
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	return cmd
}

// volumeUsers is the column of ls: who names a volume, with a star for who has it mounted.
func volumeUsers(v client.Volume) string {
	var list []string
	for _, u := range v.Sandboxes {
		name := u.Sandbox
		if u.InUse {
			name += "*"
		}
		list = append(list, name)
	}
	if list == nil {
		return "-"
	}
	return strings.Join(list, ", ")
}

func volumeInspectCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "inspect NAME…", Short: "Show all about volumes, with the sandboxes that name them", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.json {
				return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) { return c.Volume(cmd.Context(), name) })
			}
			return e.withClient(cmd.Context(), func(c *client.Client) error {
				for i, name := range args {
					v, err := c.Volume(cmd.Context(), name)
					if err != nil {
						return err
					}
					if i > 0 {
						fmt.Fprintln(e.out)
					}
					if err := e.showVolume(v); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (e *env) showVolume(v client.Volume) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	row := func(key string, value any) { fmt.Fprintf(w, "%s:\t%v\n", key, value) }
	row("name", v.Name)
	row("id", v.Id)
	row("size", fmt.Sprintf("%d MiB", v.SizeMib))
	row("used", units.BytesSize(float64(v.UsedBytes)))
	row("created", v.CreatedAt.Local().Format(time.RFC3339))
	for _, u := range v.Sandboxes {
		state := "not mounted"
		if u.InUse {
			state = "in use"
		}
		row("sandbox", fmt.Sprintf("%s (%s, %s)", u.Sandbox, mountOf(client.VolumeMount{Volume: v.Name, Path: u.Path, ReadOnly: u.ReadOnly}), state))
	}
	return w.Flush()
}

// mountOf is a volume in a sandbox as --volume has it.
func mountOf(v client.VolumeMount) string {
	return sandbox.VolumeMount{Volume: v.Volume, Path: v.Path, ReadOnly: v.ReadOnly != nil && *v.ReadOnly}.String()
}

func volumeRmCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME…", Aliases: []string{"remove"}, Short: "Remove volumes that no sandbox names, with all that is in them", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) {
				return map[string]string{"removed": name}, c.RemoveVolume(cmd.Context(), name)
			})
		},
	}
}

// withClient calls do with a client of the daemon.
func (e *env) withClient(ctx context.Context, do func(*client.Client) error) error {
	c, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// volumesRequest reads the values of --volume.
func volumesRequest(values []string) (*[]client.VolumeMount, error) {
	if len(values) == 0 {
		return nil, nil
	}
	var list []client.VolumeMount
	for _, value := range values {
		v, err := sandbox.ParseVolume(value)
		if err != nil {
			return nil, err
		}
		list = append(list, client.VolumeMount{Volume: v.Volume, Path: v.Path, ReadOnly: &v.ReadOnly})
	}
	return &list, nil
}
