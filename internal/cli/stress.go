package cli

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/bench/stress"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// maxStress bounds what one run may ask for.
const maxStress = 10_000

func stressCommand(e *env) *cobra.Command {
	count, parallel := 100, 2*runtime.NumCPU()
	var image, memory, engine string
	var cold bool
	cmd := &cobra.Command{
		Use: "stress", Short: "Boot many sandboxes, have each answer, shut them down, and look for what is left", Args: cobra.NoArgs,
		Long: "Boot many sandboxes, have each compute an answer that is checked, shut each down gracefully and remove it. Then look for\n" +
			"what is left over of them: processes, files, sockets, and descriptors of the daemon. The exit code is 1 when an answer is\n" +
			"wrong, a step fails or something is left over. Ctrl-C removes what was begun. Memory is PSS: what is shared is divided\n" +
			"among those who share it.\n\n" +
			"One more sandbox goes before the others and is not counted; it makes what is made once.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if count < 1 || count > maxStress {
				return sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("use 1 to %d", maxStress), "--count %d is out of range", count)
			}
			if parallel < 1 || parallel > maxStress {
				return sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("use 1 to %d", maxStress), "--parallel %d is out of range", parallel)
			}
			mib, err := mebibytes("--memory", memory)
			if err != nil {
				return err
			}
			req := client.CreateRequest{Image: &image, MemoryMib: &mib}
			if engine != "" {
				req.Engine = (*apiv1.CreateRequestEngine)(&engine)
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
			r, err := stress.Run(cmd.Context(), c, stress.Options{
				Count: count, Parallel: parallel, Request: req, Start: client.StartOptions{Cold: cold}, Sandboxes: dirs.Sandboxes(), Runtime: dirs.Runtime,
				Progress: func(done, of int) { p.update("sandboxes", "", int64(done), int64(of)) },
			})
			p.end()
			if err != nil {
				return err
			}
			if e.json {
				err = e.printJSON(r)
			} else {
				err = e.stressReport(r)
			}
			switch {
			case err != nil:
				return err
			case len(r.Left) == 0 && r.Failed == 0 && r.Interrupted:
				return cmd.Context().Err()
			case !r.OK():
				return exitError(1)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	fs.IntVarP(&count, "count", "n", count, "how many sandboxes")
	fs.IntVar(&parallel, "parallel", parallel, "how many at once (default two for each processor)")
	fs.BoolVar(&cold, "cold", false, "boot each, in place of going on from a template")
	fs.StringVar(&engine, "engine", "", "what runs the microVMs: "+strings.Join(sandbox.Engines, ", ")+" (default auto, or the user's configuration)")
	fs.StringVar(&image, "image", sandbox.DefaultImage, "image; it must have sh and sha256sum")
	fs.StringVarP(&memory, "memory", "m", "128M", "memory of each microVM")
	fs.Lookup("parallel").DefValue = "" // said in words
	return cmd
}

func (e *env) stressReport(r stress.Report) error {
	fmt.Fprintf(e.out, "%d sandboxes of %s, %d MiB, %d at once, engine %s (%s), kernel %s; names stress-%s-0 and so on\n\n",
		r.Count, r.Image, r.MemoryMiB, r.Parallel, r.Engine, r.Accelerator, r.Kernel, r.Seed)
	if err := e.summaries(r.Steps); err != nil {
		return err
	}
	size := func(n uint64) string { return units.BytesSize(float64(n)) }
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	fmt.Fprintln(w)
	row("passed", "%d of %d", r.Passed, r.Count)
	row("started from", "%s", counts(r.From))
	row("failed", "%d, %d of them with a wrong answer", r.Failed, r.WrongAnswers)
	row("wall", "%.1f s, %.0f ms a sandbox", r.WallSeconds, 1000*r.WallSeconds/float64(max(1, r.Passed+r.Failed)))
	if m := r.Memory; m.VMMMax > 0 {
		row("memory of a VMM", "%s to %s, median %s", size(m.VMMMin), size(m.VMMMax), size(m.VMMMedian))
	}
	if m := r.Memory; m.Samples > 0 {
		row("memory of all, peak", "%s: %d VMMs and the daemon", size(m.Peak), m.PeakVMMs)
	}
	if d := r.Daemon; d.MemoryAfter > 0 {
		row("memory of the daemon", "%s before, %s at most, %s after", size(d.MemoryBefore), size(d.MemoryPeak), size(d.MemoryAfter))
		row("descriptors of the daemon", "%d before, %d after", d.DescriptorsBefore, d.DescriptorsAfter)
	}
	row("left over", "%s", countOrNothing(len(r.Left)))
	if err := w.Flush(); err != nil {
		return err
	}
	for _, left := range r.Left {
		fmt.Fprintln(e.out, "  left over:", left)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(e.out, "  %s: %s: %s\n", f.Sandbox, f.Step, f.Error)
	}
	if more := r.Failed - len(r.Failures); more > 0 {
		fmt.Fprintf(e.out, "  and %d more\n", more)
	}
	for _, what := range r.Unchecked {
		fmt.Fprintln(e.out, "  not checked:", what)
	}
	return nil
}

// counts are numbers of things, by name.
func counts(of map[string]int) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		list = append(list, fmt.Sprintf("%s: %d", name, of[name]))
	}
	return strings.Join(list, ", ")
}

func countOrNothing(n int) string {
	if n == 0 {
		return "nothing"
	}
	return fmt.Sprint(n)
}
