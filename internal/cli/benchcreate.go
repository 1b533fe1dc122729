package cli

import (
	"fmt"
	"os"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/bench"
	"github.com/agentkernel/agentkernel/internal/paths"
)

func benchCreateCommand(e *env) *cobra.Command {
	n := 1000
	var image, memory string
	cmd := &cobra.Command{
		Use: "create", Short: "Make many sandboxes of one image, and measure time and disk of each", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := benchArgs(n, image, memory)
			if err != nil {
				return err
			}
			dirs, err := paths.Find(os.Getenv)
			if err != nil {
				return err
			}
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			p := newProgress(e.errOut)
			r, err := bench.Create(cmd.Context(), c, n, dirs.State, req, func(done, of int) { p.update("create", "", int64(done), int64(of)) })
			p.end()
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(r)
			}
			if err := e.summaries(r.Rows); err != nil {
				return err
			}
			_, err = fmt.Fprintf(e.out, "\nthe last to the first, p50: %.2f\ndisk of each sandbox: %s\n", r.Ratio, units.BytesSize(float64(r.BytesEach)))
			return err
		},
	}
	benchFlags(cmd, &n, &image, &memory)
	return cmd
}
