package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/pkg/client"
)

func listCommand(e *env) *cobra.Command {
	var quiet, asTree bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the sandboxes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.List(cmd.Context())
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(list)
			}
			if list.Problems != nil {
				for _, p := range *list.Problems {
					fmt.Fprintln(e.errOut, "agentkernel: warning: a record cannot be read and is left alone:", p)
				}
			}
			if quiet {
				for _, sb := range list.Sandboxes {
					fmt.Fprintln(e.out, sb.Id)
				}
				return nil
			}
			if asTree {
				return tree(e.out, list.Sandboxes)
			}
			w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tIMAGE\tAGENT\tVCPUS\tMEMORY\tENGINE\tCREATED\tPORTS")
			for _, sb := range list.Sandboxes {
				agent := "-"
				if sb.Agent != nil {
					agent = *sb.Agent
				}
				engine := "-"
				if sb.Engine != nil {
					engine = *sb.Engine
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d MiB\t%s\t%s ago\t%s\n", sb.Name, sb.State, sb.Image, agent, sb.Vcpus, sb.MemoryMib, engine,
					strings.ToLower(units.HumanDuration(time.Since(sb.CreatedAt))), portList(sb))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	cmd.Flags().BoolVar(&asTree, "tree", false, "show which were made from which")
	return cmd
}

func inspectCommand(e *env) *cobra.Command {
	var hygiene bool
	cmd := &cobra.Command{
		Use: "inspect NAME…", Short: "Show all about sandboxes, with where the time of the last start went", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if hygiene {
				return e.hygiene(cmd.Context(), args)
			}
			if e.json {
				return e.each(cmd.Context(), args, func(c *client.Client, name string) (any, error) { return c.Get(cmd.Context(), name) })
			}
			return e.inspect(cmd.Context(), args)
		},
	}
	cmd.Flags().BoolVar(&hygiene, "hygiene", false, "show what they have for their own that two sandboxes must not share; the exit code is 1 when something failed")
	return cmd
}

func (e *env) inspect(ctx context.Context, names []string) error {
	c, err := e.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for i, name := range names {
		sb, err := c.Get(ctx, name)
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(e.out)
		}
		e.show(sb)
	}
	return nil
}

func (e *env) show(sb client.Sandbox) {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	row := func(key string, value any) { fmt.Fprintf(w, "%s:\t%v\n", key, value) }
	text := func(key string, value *string) {
		if value != nil {
			row(key, *value)
		}
	}
	at := func(key string, t *time.Time) {
		if t != nil {
			row(key, t.Local().Format(time.RFC3339))
		}
	}
	row("name", sb.Name)
	row("id", sb.Id)
	row("state", sb.State)
	text("reason", sb.Reason)
	row("image", fmt.Sprintf("%s (%s)", sb.Image, sb.ImageDigest))
	row("architecture", sb.Arch)
	if sb.Agent != nil {
		row("agent", *sb.Agent+" (recorded; nothing uses it yet)")
	}
	row("vcpus", sb.Vcpus)
	row("memory", fmt.Sprintf("%d MiB", sb.MemoryMib))
	row("disk", fmt.Sprintf("%d MiB", sb.DiskMib))
	row("vsock CID", sb.VsockCid)
	text("project", sb.Project)
	if sb.IdleTimeoutMs != nil {
		row("idle timeout", time.Duration(*sb.IdleTimeoutMs)*time.Millisecond)
	}
	text("idle action", sb.IdleAction)
	if p := sb.Parent; p != nil {
		from := "fork of " + p.Sandbox
		if p.Snapshot != nil {
			from = fmt.Sprintf("snapshot %s of %s", *p.Snapshot, p.Sandbox)
		}
		row("made from", from)
	}
	text("next start goes on from", sb.Restores)
	if sb.Engine != nil {
		row("engine", *sb.Engine+" ("+*sb.Accelerator+")")
	}
	text("chosen because", sb.EngineWhy)
	text("engine asked for", sb.EngineAsked)
	for _, p := range published(sb) {
		row("port", listens(p)+" -> "+target(p))
	}
	if sb.Volumes != nil {
		for _, v := range *sb.Volumes {
			row("volume", mountOf(v))
		}
	}
	text("kernel", sb.Kernel)
	if sb.Pid != nil {
		row("VMM pid", *sb.Pid)
	}
	if sb.Confinement != nil {
		row("VMM confined by", strings.Join(*sb.Confinement, "; "))
	}
	at("created", &sb.CreatedAt)
	at("started", sb.StartedAt)
	at("finished", sb.FinishedAt)
	if sb.GuestInstructions != nil {
		row("guest instructions", fmt.Sprintf("%.1f M to ready", float64(*sb.GuestInstructions)/1e6))
	}
	if sb.Warnings != nil {
		for _, warning := range *sb.Warnings {
			row("warning", warning)
		}
	}
	if sb.Stages != nil {
		row("last start", "")
		stages(w, *sb.Stages)
	}
}

// stages prints where the time of a start went, with the sum up to readiness.
func stages(w *tabwriter.Writer, list []client.Stage) {
	total := 0.0
	ready := false
	for _, s := range list {
		if s.Name == "first exec" && !ready {
			fmt.Fprintf(w, "  ready\t%.1f ms\n", total)
			ready = true
		}
		fmt.Fprintf(w, "  %s\t%.1f ms\n", s.Name, s.DurationMs)
		total += s.DurationMs
	}
	if !ready {
		fmt.Fprintf(w, "  ready\t%.1f ms\n", total)
	}
}
