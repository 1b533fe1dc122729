package cli

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/image"
)

// imageStep is a line of history: what made a part of an image.
type imageStep struct {
	image.Step
	// Layer is its digest, unpacked, and Size its size then, when the step made one.
	Layer string `json:"layer,omitempty"`
	Size  int64  `json:"size,omitempty"`
}

func imageHistoryCommand(e *env) *cobra.Command {
	var full bool
	cmd := &cobra.Command{
		Use: "history NAME", Short: "Show what an image was made of, the newest first", Args: cobra.ExactArgs(1),
		Long: "Show what an image was made of, the newest first: the steps that a container image tells of, or else the recipe, the archive or\n" +
			"the file that the image comes from.",
	}
	arch := archFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
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
		steps := history(m)
		if e.json {
			return e.printJSON(steps)
		}
		w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', 0)
		fmt.Fprintln(w, "CREATED\tSIZE\tMADE BY\tCOMMENT")
		for _, s := range steps {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", age(s.Created), units.HumanSize(float64(s.Size)), short(s.By, full), short(s.Comment, full))
		}
		return w.Flush()
	}
	cmd.Flags().BoolVar(&full, "no-trunc", false, "do not cut long lines")
	return cmd
}

// history is what an image was made of, the newest first.
func history(m image.Manifest) []imageStep {
	if m.Origin == nil || len(m.Origin.History) == 0 {
		return []imageStep{{Step: image.Step{Created: m.Created, By: m.Source}, Size: m.Size}}
	}
	layers := m.Origin.Layers
	var steps []imageStep
	for _, s := range m.Origin.History {
		step := imageStep{Step: s}
		if !s.Empty && len(layers) > 0 { // an image may tell of more layers than it has
			step.Layer, step.Size = layers[0].DiffID, layers[0].Size
			layers = layers[1:]
		}
		steps = append(steps, step)
	}
	for _, l := range layers { // or of fewer
		steps = append(steps, imageStep{Step: image.Step{Comment: "not told"}, Layer: l.DiffID, Size: l.Size})
	}
	slices.Reverse(steps)
	return steps
}

func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}

// short is one line of text, cut unless full is set.
func short(s string, full bool) string {
	const most = 60 // characters
	s = oneLine(s)
	if r := []rune(s); !full && len(r) > most {
		return strings.TrimSpace(string(r[:most-1])) + "…"
	}
	return s
}

// oneLine takes out of a text that somebody else wrote what could harm a terminal or break a table.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.IsControl(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}
