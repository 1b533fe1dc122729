package cli

import (
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
	all := benchmarks()
	names := make([]string, len(all))
	for i, b := range all {
		names[i] = b.name
	}
	cmd := &cobra.Command{
		Use: "all", Short: "Measure everything, each with its defaults", Args: cobra.NoArgs,
		Example: "  agentkernel bench all --compare docker --json >run.json\n  agentkernel bench report run.json -o run.svg",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			for _, name := range only {
				if !slices.Contains(names, name) {
					return sandbox.Errorf(sandbox.Invalid, "use some of "+strings.Join(names, ", "), "--only: there is no benchmark %q", name)
				}
			}
			shared := newBenchEnv()
			closeAll, err := f.apply(cmd.Context(), e, shared, "128M")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, closeAll()) }()
			var sections []bench.Section
			for _, b := range all {
				if len(only) > 0 && !slices.Contains(only, b.name) {
					continue
				}
				be := *shared
				be.N = b.n
				be.Request.Vcpus = new(int)
				*be.Request.Vcpus = 1
				if be.Request.MemoryMib, err = b.mebibytes(); err != nil {
					return err
				}
				if b.flags != nil { // for the defaults
					b.flags(pflag.NewFlagSet(b.name, pflag.ContinueOnError), &be)
				}
				if !b.compare {
					be.Rivals = nil
				}
				s, err := e.measure(cmd.Context(), b, &be)
				if err != nil {
					return fmt.Errorf("bench %s: %w", b.name, err)
				}
				sections = append(sections, s)
			}
			return e.benchReport(cmd.Context(), shared, sections)
		},
	}
	f.register(cmd.Flags(), true)
	cmd.Flags().StringSliceVar(&only, "only", nil, "these alone: "+strings.Join(names, ", "))
	return cmd
}

func (b benchmark) mebibytes() (*int, error) {
	mib, err := mebibytes("--memory", b.memoryOrDefault())
	return &mib, err
}
