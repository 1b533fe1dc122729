package cli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/pkg/client"
)

func snapshotCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use: "snapshot", Short: "Take and look after snapshots of sandboxes",
		Long: "A snapshot is a sandbox at one point in time: its memory, with all that runs in it, and its disk. Other sandboxes go on from it\n" +
			"(create NAME --from-snapshot SANDBOX:TAG), as often as wanted, and share its memory until they write to it.",
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(snapshotCreateCommand(e), snapshotListCommand(e), snapshotInspectCommand(e), snapshotRmCommand(e))
	return cmd
}

func snapshotCreateCommand(e *env) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "create NAME [TAG]", Short: "Take a snapshot of a running or paused sandbox, which goes on", Args: cobra.RangeArgs(1, 2),
		Long: "Take a snapshot of a running or paused sandbox, which stands still for a moment and goes on. It is called NAME:TAG, or by its id.\n" +
			"What is in it is kept until it is removed, also when the sandbox is.",
		Example: "  agentkernel snapshot create my-project before\n  agentkernel create try --from-snapshot my-project:before",
		RunE: func(cmd *cobra.Command, args []string) error {
			tag := ""
			if len(args) == 2 {
				tag = args[1]
			}
			return e.withClient(cmd.Context(), func(c *client.Client) error {
				s, err := c.CreateSnapshot(cmd.Context(), args[0], tag)
				switch {
				case err != nil:
					return err
				case e.json:
					return e.printJSON(s)
				case quiet:
					fmt.Fprintln(e.out, s.Id)
				default:
					fmt.Fprintln(e.out, s.Ref)
					fmt.Fprintf(e.errOut, "agentkernel: %s stood still for %.0f ms\n", s.Sandbox, s.PausedMs)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the id alone")
	return cmd
}

func snapshotListCommand(e *env) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the snapshots", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.withClient(cmd.Context(), func(c *client.Client) error {
				list, err := c.Snapshots(cmd.Context())
				if err != nil {
					return err
				}
				if e.json {
					return e.printJSON(list)
				}
				if list.Problems != nil {
					for _, p := range *list.Problems {
						fmt.Fprintln(e.errOut, "agentkernel: warning: a manifest cannot be read and is left alone:", p)
					}
				}
				if quiet {
					for _, s := range list.Snapshots {
						fmt.Fprintln(e.out, s.Id)
					}
					return nil
				}
				w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', 0)
				fmt.Fprintln(w, "SANDBOX\tTAG\tID\tIMAGE\tMEMORY\tUSED\tENGINE\tSTOOD STILL\tCREATED")
				for _, s := range list.Snapshots {
					tag := "-"
					if s.Tag != nil {
						tag = *s.Tag
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d MiB\t%s\t%s\t%.0f ms\t%s ago\n", s.Sandbox, tag, s.Id, s.Image, s.MemoryMib, units.BytesSize(float64(s.UsedBytes)),
						s.Engine, s.PausedMs, units.HumanDuration(time.Since(s.CreatedAt)))
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	return cmd
}

func snapshotInspectCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "inspect SNAPSHOT…", Short: "Show all about snapshots, given as SANDBOX:TAG or by id", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.json {
				return e.each(cmd.Context(), args, func(c *client.Client, ref string) (any, error) { return c.Snapshot(cmd.Context(), ref) })
			}
			return e.withClient(cmd.Context(), func(c *client.Client) error {
				for i, ref := range args {
					s, err := c.Snapshot(cmd.Context(), ref)
					if err != nil {
						return err
					}
					if i > 0 {
						fmt.Fprintln(e.out)
					}
					if err := e.showSnapshot(s); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (e *env) showSnapshot(s client.Snapshot) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	row := func(key string, value any) { fmt.Fprintf(w, "%s:\t%v\n", key, value) }
	text := func(key string, value *string) {
		if value != nil {
			row(key, *value)
		}
	}
	row("snapshot", s.Ref)
	row("id", s.Id)
	row("sandbox", fmt.Sprintf("%s (%s)", s.Sandbox, s.SandboxId))
	text("parent", s.Parent)
	row("created", s.CreatedAt.Local().Format(time.RFC3339))
	row("stood still", fmt.Sprintf("%.1f ms", s.PausedMs))
	row("engine", fmt.Sprintf("%s %s (%s)", s.Engine, s.EngineVersion, s.Accelerator))
	row("CPU", s.Cpu)
	row("architecture", s.Arch)
	row("vcpus", s.Vcpus)
	row("memory", fmt.Sprintf("%d MiB", s.MemoryMib))
	row("disk", fmt.Sprintf("%d MiB", s.DiskMib))
	row("image", fmt.Sprintf("%s (%s)", s.Image, s.ImageDigest))
	text("kernel", s.Kernel)
	text("kernel SHA-256", s.KernelSha256)
	text("initramfs SHA-256", s.InitramfsSha256)
	row("used", units.BytesSize(float64(s.UsedBytes)))
	for _, f := range s.Files {
		row("file", fmt.Sprintf("%s (%s, %s)", f.Path, units.BytesSize(float64(f.SizeBytes)), f.Sum))
	}
	return w.Flush()
}

func snapshotRmCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "rm SNAPSHOT…", Aliases: []string{"remove"}, Short: "Remove snapshots, given as SANDBOX:TAG or by id; sandboxes that came of them go on", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.each(cmd.Context(), args, func(c *client.Client, ref string) (any, error) {
				return map[string]string{"removed": ref}, c.RemoveSnapshot(cmd.Context(), ref)
			})
		},
	}
}
