package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	units "github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/app"
	"github.com/agentkernel/agentkernel/internal/bench"
	"github.com/agentkernel/agentkernel/internal/bench/stress"
	"github.com/agentkernel/agentkernel/internal/paths"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// benchmark is one subcommand of bench, and a part of bench all.
type benchmark struct {
	name, short string
	n           int // how often, by default; 0: it has no --count
	memory      string
	compare     bool // it can be compared with others
	budgets     bool // it measures what there are budgets for
	run         func(context.Context, *bench.Env) (bench.Section, error)
	// flags are its own; they set fields of the Env, which has their defaults then.
	flags func(*pflag.FlagSet, *bench.Env)
}

func benchmarks() []benchmark {
	return []benchmark{
		{name: "boot", short: "Time the stages of cold boots, and count guest instructions where the CPU is emulated", n: 10, run: bench.Boot},
		{name: "start", short: "Time starts from a template and cold boots, in turns, to the end of the first command", n: 10, budgets: true, run: bench.Start},
		{name: "run", short: "Time the command line's run of true, from the making of a sandbox to its removal", n: 10, compare: true, budgets: true, run: bench.Run},
		{name: "exec", short: "Time execs in a running sandbox", n: 100, compare: true, budgets: true, run: bench.Exec,
			flags: func(fs *pflag.FlagSet, e *bench.Env) {
				fs.IntVar(&e.Parallel, "parallel", 50, "run so many at once as well; 0: none")
				fs.IntVar(e.Request.Vcpus, "vcpus", 1, "virtual CPUs of the sandbox")
			}},
		{name: "cp", short: "Time copies of a file and of a tree, into a sandbox and out of it", memory: "512M", compare: true, run: bench.Copy,
			flags: func(fs *pflag.FlagSet, e *bench.Env) {
				e.Copy.Bytes = 256 << 20
				fs.Var((*byteSize)(&e.Copy.Bytes), "size", "size of the file; 0: none")
				fs.IntVar(&e.Copy.Files, "files", 10_000, "files of the tree; 0: no tree")
			}},
		{name: "create", short: "Make many sandboxes of one image, and measure time and disk of each", n: 1000,
			run: func(ctx context.Context, be *bench.Env) (bench.Section, error) {
				dirs, err := paths.Find(os.Getenv)
				if err != nil {
					return bench.Section{}, err
				}
				return bench.Create(ctx, be, dirs.State)
			}},
		{name: "snapshot", short: "Time snapshots of a running sandbox, starts from them, suspend and resume", n: 10, budgets: true, run: bench.Snapshot},
		{name: "fork", short: "Time running copies of a running sandbox", n: 10, run: bench.Fork},
		{name: "memory", short: "Measure what idle sandboxes take of the host's memory", n: 4, budgets: true, run: bench.Memory},
		{name: "idle", short: "Measure what a sandbox takes while nothing happens in it", budgets: true, run: bench.Idle,
			flags: func(fs *pflag.FlagSet, e *bench.Env) {
				fs.DurationVar(&e.Idle, "for", 20*time.Second, "how long it is watched")
			}},
		{name: "stress", short: "Time many sandboxes at once: the command stress, as a benchmark", n: 100, compare: true, budgets: true, run: benchStress(false), flags: atOnce},
		{name: "stress-cold", short: "Time many sandboxes at once that boot: stress --cold, as a benchmark", n: 100, budgets: true, run: benchStress(true), flags: atOnce},
	}
}

func atOnce(fs *pflag.FlagSet, e *bench.Env) {
	fs.IntVar(&e.Parallel, "parallel", 2*runtime.NumCPU(), "how many at once")
}

func benchStress(cold bool) func(context.Context, *bench.Env) (bench.Section, error) {
	return func(ctx context.Context, e *bench.Env) (bench.Section, error) {
		dirs, err := paths.Find(os.Getenv)
		if err != nil {
			return bench.Section{}, err
		}
		return stress.Bench(ctx, e, cold, dirs.Sandboxes(), dirs.Runtime)
	}
}

func benchCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure agentkernel on this host",
		Long: "Measure agentkernel on this host. With --json a run can be kept, and drawn by bench report.\n\n" +
			"Sandboxes are of the same kind whatever configuration there is, and one is at work at a time unless it says otherwise. What\n" +
			"is compared is measured in turns. Absolute times of emulated guests (tcg) say little: compare what is in one run.",
	}
	for _, b := range benchmarks() {
		cmd.AddCommand(b.command(e))
	}
	cmd.AddCommand(benchAllCommand(e), benchBudgetsCommand(e), benchReportCommand(e))
	return cmd
}

// benchFlags are those that all benchmarks have.
type benchFlags struct {
	image, memory, engine string
	compare               []string
}

func (f *benchFlags) register(fs *pflag.FlagSet, compare bool) {
	fs.StringVar(&f.image, "image", sandbox.DefaultImage, "image")
	fs.StringVar(&f.engine, "engine", "", "what runs the microVMs: "+strings.Join(sandbox.Engines, ", ")+" (default auto, or the user's configuration)")
	if compare {
		fs.StringSliceVar(&f.compare, "compare", nil, "measure beside these, in turns: docker, runsc")
	}
}

// apply completes what benchmarks work with. After it, close is to be called.
func (f *benchFlags) apply(ctx context.Context, e *env, be *bench.Env, memory string) (closeAll func() error, err error) {
	mib, err := mebibytes("--memory", memory)
	if err != nil {
		return nil, err
	}
	be.Request.Image, be.Request.MemoryMib = &f.image, &mib
	if f.engine != "" {
		be.Request.Engine = (*apiv1.CreateRequestEngine)(&f.engine)
	}
	if be.Self, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	var errs []error
	closeAll = func() error {
		for _, rival := range be.Rivals {
			errs = append(errs, rival.Close())
		}
		be.Client.Close()
		return errors.Join(errs...)
	}
	if be.Client, err = e.connect(ctx); err != nil {
		return nil, err
	}
	for _, name := range f.compare {
		rival, err := bench.NewRival(ctx, name)
		if err != nil {
			return nil, errors.Join(err, closeAll())
		}
		be.Rivals = append(be.Rivals, rival)
	}
	return closeAll, nil
}

func newBenchEnv() *bench.Env {
	vcpus := 1
	return &bench.Env{Request: client.CreateRequest{Vcpus: &vcpus}, Progress: func(int, int) {}}
}

func (b benchmark) command(e *env) *cobra.Command {
	var f benchFlags
	be := newBenchEnv()
	cmd := &cobra.Command{
		Use: b.name, Short: b.short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := b.check(be); err != nil {
				return err
			}
			closeAll, err := f.apply(cmd.Context(), e, be, f.memory)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, closeAll()) }()
			s, err := e.measure(cmd.Context(), b, be)
			if err != nil {
				return err
			}
			host, err := be.Describe(cmd.Context())
			if err != nil {
				return err
			}
			return e.benchReport(host, []bench.Section{s})
		},
	}
	fs := cmd.Flags()
	f.register(fs, b.compare)
	fs.StringVarP(&f.memory, "memory", "m", b.memoryOrDefault(), "memory of the microVM")
	if b.n > 0 {
		fs.IntVarP(&be.N, "count", "n", b.n, "how many times")
	}
	if b.flags != nil {
		b.flags(fs, be)
	}
	return cmd
}

func (b benchmark) memoryOrDefault() string {
	if b.memory != "" {
		return b.memory
	}
	return "128M"
}

// check refuses what measures nothing.
func (b benchmark) check(be *bench.Env) error {
	switch {
	case b.n > 0 && be.N < 1:
		return sandbox.Errorf(sandbox.Invalid, "ask for 1 or more", "--count %d measures nothing", be.N)
	case be.Parallel < 0 || be.Parallel > 1000:
		return sandbox.Errorf(sandbox.Invalid, "use 1 to 1000", "--parallel %d is out of range", be.Parallel)
	case be.Copy.Files < 0:
		return sandbox.Errorf(sandbox.Invalid, "use 0 or more", "--files %d is out of range", be.Copy.Files)
	case be.Idle < 0 || be.Idle > time.Hour:
		return sandbox.Errorf(sandbox.Invalid, "use up to 1h", "--for %v is out of range", be.Idle)
	}
	return nil
}

// measure runs one benchmark, and shows how far it is.
func (e *env) measure(ctx context.Context, b benchmark, be *bench.Env) (bench.Section, error) {
	p := newProgress(e.errOut)
	defer p.end()
	be.Progress = func(done, of int) { p.update(b.name, "", int64(done), int64(of)) }
	return b.run(ctx, be)
}

// benchReport prints what was measured.
func (e *env) benchReport(host bench.Host, sections []bench.Section) error {
	if e.json {
		return e.printJSON(bench.Report{Format: bench.Format, Time: time.Now().UTC().Truncate(time.Second), Version: app.Version, Host: host, Sections: sections})
	}
	for i, s := range sections {
		if i > 0 {
			fmt.Fprintln(e.out)
		}
		if err := e.section(s); err != nil {
			return err
		}
	}
	return nil
}

func (e *env) section(s bench.Section) error {
	fmt.Fprintf(e.out, "%s: %s\n", s.Title, s.Setup)
	if len(s.Times) > 0 {
		fmt.Fprintln(e.out)
		if err := e.summaries(s.Times); err != nil {
			return err
		}
	}
	if len(s.Values) > 0 {
		fmt.Fprintln(e.out)
	}
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	for _, v := range s.Values {
		fmt.Fprintf(w, "%s\t%s", v.Name, v)
		if v.AtMost != nil {
			fmt.Fprintf(w, "\t%s: at most %s", verdict(v), bench.Number(*v.AtMost, v.Unit))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, what := range s.Unmeasured {
		fmt.Fprintln(e.out, "not measured:", what)
	}
	for _, note := range s.Notes {
		fmt.Fprintln(e.out, "note:", note)
	}
	return nil
}

// verdict says whether a number is within its budget.
func verdict(v bench.Value) string {
	if v.Met() {
		return "ok"
	}
	return "FAIL"
}

func (e *env) summaries(rows []bench.Summary) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tmin\tp50\tp95\tp99\tmax\tms\t")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\t\n", r.Name, r.Min, r.P50, r.P95, r.P99, r.Max)
	}
	return w.Flush()
}

// byteSize is a flag such as 256M.
type byteSize int64

func (b *byteSize) String() string { return units.BytesSize(float64(*b)) }
func (b *byteSize) Type() string   { return "size" }

func (b *byteSize) Set(s string) error {
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a size such as 256M", s)
	}
	*b = byteSize(n)
	return nil
}
