package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/image"
)

// imageDetails is a manifest with what the store and the daemon know besides.
type imageDetails struct {
	image.Manifest
	Path      string   `json:"path"`
	Verity    string   `json:"fs_verity,omitempty"` // digest by which the host's file system checks each read; empty when it does not
	Sandboxes []string `json:"sandboxes"`           // those that use the image, by whatever name
}

func imageInspectCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use: "inspect NAME…", Short: "Show all about images, with the sandboxes that use them", Args: cobra.MinimumNArgs(1),
	}
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
		used, err := e.digestsInUse(cmd.Context())
		if err != nil {
			return err
		}
		list := []imageDetails{}
		var errs []error
		for _, name := range args {
			m, err := store.Get(name, a)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			file, err := store.OpenDigest(cmd.Context(), m.Digest)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			d := imageDetails{Manifest: m, Path: file.Path, Verity: image.Verity(file.Path), Sandboxes: append([]string{}, used[m.Digest]...)}
			list = append(list, d)
		}
		if e.json {
			return errors.Join(append(errs, e.printJSON(list))...)
		}
		for i, d := range list {
			if i > 0 {
				fmt.Fprintln(e.out)
			}
			errs = append(errs, e.showImage(d))
		}
		return errors.Join(errs...)
	}
	return cmd
}

func (e *env) showImage(d imageDetails) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	row := func(key, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s:\t%s\n", key, oneLine(value))
		}
	}
	row("name", d.Name)
	row("architecture", string(d.Arch))
	row("digest", d.Digest)
	row("file system", d.FS)
	row("size", units.HumanSize(float64(d.Size)))
	row("created", d.Created.Local().Format(time.RFC3339))
	row("made from", d.Source)
	row("file", filepath.Clean(d.Path))
	if d.Verity == "" {
		row("fs-verity", "not on this host's file system; image verify reads all of it")
	} else {
		row("fs-verity", d.Verity)
	}
	if c := d.Config; c != nil {
		for _, env := range c.Env {
			row("env", env)
		}
		row("working directory", c.WorkingDir)
		row("user", c.User)
		row("entrypoint", quoted(c.Entrypoint))
		row("command", quoted(c.Cmd))
		row("exposed ports", strings.Join(c.ExposedPorts, ", "))
		row("volumes", strings.Join(c.Volumes, ", "))
	}
	if o := d.Origin; o != nil {
		row("reference", o.Reference)
		row("container image", o.Digest)
		row("configuration", o.ConfigDigest)
		for _, l := range o.Layers {
			row("layer", l.DiffID)
		}
	}
	row("sandboxes", strings.Join(d.Sandboxes, ", "))
	return w.Flush()
}

// quoted shows arguments so that one can tell where each ends.
func quoted(args []string) string {
	var list []string
	for _, a := range args {
		list = append(list, fmt.Sprintf("%q", a))
	}
	return strings.Join(list, " ")
}
