package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/agentkernel/agentkernel/internal/bench"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func benchAllCommand(e *env) *cobra.Command {
	var f benchFlags
	var only []string
	var names []string
	for _, b := range benchmarks() {
		names = append(names, b.name)
	}
	cmd := &cobra.Command{
		Use: "all", Short: "Measure everything, each with its defaults", Args: cobra.NoArgs,
		Example: "  agentkernel bench all --compare docker --json >run.json\n  agentkernel bench report run.json -o run.svg",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range only {
				if !slices.Contains(names, name) {
					return sandbox.Errorf(sandbox.Invalid, "use some of "+strings.Join(names, ", "), "--only: there is no benchmark %q", name)
				}
			}
			host, sections, err := e.measureAll(cmd.Context(), &f, func(b benchmark) bool { return len(only) == 0 || slices.Contains(only, b.name) })
			if len(sections) > 0 { // what was measured is not lost
				err = errors.Join(e.benchReport(host, sections), err)
			}
			return err
		},
	}
	f.register(cmd.Flags(), true)
	cmd.Flags().StringSliceVar(&only, "only", nil, "these alone: "+strings.Join(names, ", "))
	return cmd
}

// measureAll runs the benchmarks that are wanted, each with its defaults. After an error it goes on with the next.
func (e *env) measureAll(ctx context.Context, f *benchFlags, wanted func(benchmark) bool) (host bench.Host, sections []bench.Section, err error) {
	shared := newBenchEnv()
	closeAll, err := f.apply(ctx, e, shared, "0")
	if err != nil {
		return host, nil, err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	if host, err = shared.Describe(ctx); err != nil {
		return host, nil, err
	}
	var failed error
	for _, b := range benchmarks() {
		if !wanted(b) {
			continue
		}
		be, err := b.defaults(shared)
		if err != nil {
			return host, nil, err
		}
		s, err := e.measure(ctx, b, be)
		if ctx.Err() != nil {
			return host, sections, context.Cause(ctx)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("bench %s: %w", b.name, err))
			continue
		}
		sections = append(sections, s)
	}
	return host, sections, failed
}

// defaults are what the benchmark works with when nothing else is said.
func (b benchmark) defaults(shared *bench.Env) (*bench.Env, error) {
	be := newBenchEnv()
	be.Client, be.Self, be.Rivals, be.N = shared.Client, shared.Self, shared.Rivals, b.n
	be.Request.Image, be.Request.Engine = shared.Request.Image, shared.Request.Engine
	mib, err := mebibytes("--memory", b.memoryOrDefault())
	be.Request.MemoryMib = &mib
	if b.flags != nil { // they have the defaults
		b.flags(pflag.NewFlagSet(b.name, pflag.ContinueOnError), be)
	}
	if !b.compare {
		be.Rivals = nil
	}
	return be, err
}
