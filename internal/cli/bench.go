package cli

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/bench"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

func benchCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure boots, execs and copies on this host"}
	cmd.AddCommand(benchBootCommand(e), benchExecCommand(e), benchCpCommand(e), benchCreateCommand(e))
	return cmd
}

// benchRequest is the sandbox that benchmarks use, whatever configuration file is here: numbers shall be comparable.
func benchRequest(image string, memoryMiB int) client.CreateRequest {
	name := "bench-" + runName()[len("run-"):]
	return client.CreateRequest{Name: name, Image: &image, MemoryMib: &memoryMiB}
}

func benchFlags(cmd *cobra.Command, n *int, image, memory *string) {
	cmd.Flags().IntVarP(n, "count", "n", *n, "how many times")
	cmd.Flags().StringVar(image, "image", sandbox.DefaultImage, "image")
	cmd.Flags().StringVarP(memory, "memory", "m", "128M", "memory of the microVM")
}

func benchArgs(n int, image, memory string) (client.CreateRequest, error) {
	if n < 1 {
		return client.CreateRequest{}, sandbox.Errorf(sandbox.Invalid, "ask for 1 or more", "--count %d measures nothing", n)
	}
	mib, err := mebibytes("--memory", memory)
	return benchRequest(image, mib), err
}

func benchBootCommand(e *env) *cobra.Command {
	n := 10
	var image, memory string
	cmd := &cobra.Command{
		Use: "boot", Short: "Time the stages of cold boots, and count guest instructions where the CPU is emulated", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := benchArgs(n, image, memory)
			if err != nil {
				return err
			}
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			p := newProgress(e.errOut)
			r, err := bench.Boot(cmd.Context(), c, n, req, func(done, of int) { p.update("boot", "", int64(done), int64(of)) })
			p.end()
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(r)
			}
			fmt.Fprintf(e.out, "%d cold boots of %s, %s, engine %s (%s), kernel %s\n\n", n, image, memory, r.Engine, r.Accelerator, r.Kernel)
			if err := e.summaries(r.Stages); err != nil {
				return err
			}
			if r.Instructions > 0 {
				fmt.Fprintf(e.out, "\nguest instructions to ready: %.1f M\n", float64(r.Instructions)/1e6)
			}
			return nil
		},
	}
	benchFlags(cmd, &n, &image, &memory)
	return cmd
}

func benchExecCommand(e *env) *cobra.Command {
	n, parallel, vcpus := 100, 0, 1
	var image, memory, compare string
	cmd := &cobra.Command{
		Use: "exec", Short: "Time execs in a running sandbox", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := benchArgs(n, image, memory)
			if err != nil {
				return err
			}
			if compare != "" && compare != "docker" {
				return sandbox.Errorf(sandbox.Invalid, "compare with docker", "--compare %q is not known", compare)
			}
			if parallel < 0 || parallel > 1000 {
				return sandbox.Errorf(sandbox.Invalid, "use 1 to 1000", "--parallel %d is out of range", parallel)
			}
			req.Vcpus = &vcpus
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			c, err := e.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			r, err := bench.Exec(cmd.Context(), c, self, n, compare == "docker", parallel, req)
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(r)
			}
			if err := e.summaries(r.Rows); err != nil {
				return err
			}
			if r.Ratio > 0 {
				fmt.Fprintf(e.out, "\nagentkernel exec / docker exec, p50: %.2f\n", r.Ratio)
			}
			if r.Parallel > 0 {
				fmt.Fprintf(e.out, "\n%d at once, p99 / one through the API, p50: %.1f\n", r.Parallel, r.ParallelRatio)
			}
			return nil
		},
	}
	benchFlags(cmd, &n, &image, &memory)
	cmd.Flags().StringVar(&compare, "compare", "", "measure beside this, in turns: docker")
	cmd.Flags().IntVar(&parallel, "parallel", 0, "run so many at once as well")
	cmd.Flags().IntVar(&vcpus, "vcpus", 1, "virtual CPUs of the sandbox")
	return cmd
}

func (e *env) summaries(rows []bench.Summary) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tmin\tp50\tp95\tp99\tmax\tms\t")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\t\n", r.Name, r.Min, r.P50, r.P95, r.P99, r.Max)
	}
	return w.Flush()
}
