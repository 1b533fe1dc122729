package cli

import (
	"fmt"
	"os"
	"text/tabwriter"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/bench"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func benchCpCommand(e *env) *cobra.Command {
	var size, image, memory, compare string
	spec := bench.CopySpec{}
	cmd := &cobra.Command{
		Use: "cp", Short: "Time copies of a file and of a tree, into a sandbox and out of it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if spec.Bytes, err = units.RAMInBytes(size); err != nil || spec.Bytes < 0 || spec.Files < 0 {
				return sandbox.Errorf(sandbox.Invalid, "use a size such as 256M, and 0 or more files", "--size %q or --files %d is out of range", size, spec.Files)
			}
			req, err := benchArgs(1, image, memory)
			if err != nil {
				return err
			}
			if compare != "" && compare != "docker" {
				return sandbox.Errorf(sandbox.Invalid, "compare with docker", "--compare %q is not known", compare)
			}
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			rows, err := bench.Copy(cmd.Context(), c, self, spec, compare == "docker", req)
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(rows)
			}
			w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', tabwriter.AlignRight)
			fmt.Fprintln(w, "\tbytes\tfiles\ts\tMiB/s\tdocker cp, s\tthroughput / docker's\t")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%d\t%.2f\t%.1f\t", r.Name, units.BytesSize(float64(r.Bytes)), r.Files, r.Seconds, float64(r.Bytes)/(1<<20)/r.Seconds)
				if r.Docker > 0 {
					fmt.Fprintf(w, "%.2f\t%.2f\t", r.Docker, r.Ratio)
				} else {
					fmt.Fprint(w, "-\t-\t")
				}
				fmt.Fprintln(w)
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVar(&size, "size", "1G", "size of the file; 0: none")
	cmd.Flags().IntVar(&spec.Files, "files", 50_000, "files of the tree; 0: no tree")
	cmd.Flags().StringVar(&image, "image", sandbox.DefaultImage, "image")
	cmd.Flags().StringVarP(&memory, "memory", "m", "512M", "memory of the microVM")
	cmd.Flags().StringVar(&compare, "compare", "", "measure beside this, in turns: docker")
	return cmd
}
