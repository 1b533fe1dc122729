package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/bench"
)

func benchBudgetsCommand(e *env) *cobra.Command {
	f := benchFlags{compare: []string{"docker"}}
	cmd := &cobra.Command{
		Use: "budgets", Short: "Measure what there are budgets for; the exit code is 1 when one is not met", Args: cobra.NoArgs,
		Long: "Measure what there are budgets for, most of them as ratios: to docker, which has to run, or to a cold boot. The exit code is\n" +
			"1 when one is not met or cannot be measured. What starts from the pool takes is measured where the user's configuration has one\n" +
			"with the image.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted := func(b benchmark) bool { return b.budgets }
			host, sections, err := e.measureAll(cmd.Context(), &f, wanted)
			if err != nil {
				return err
			}
			if e.json {
				err = e.benchReport(host, sections)
			} else {
				err = e.budgets(sections)
			}
			if err != nil {
				return err
			}
			if !met(sections) {
				return exitError(1)
			}
			return nil
		},
	}
	f.register(cmd.Flags(), false)
	return cmd
}

func (e *env) budgets(sections []bench.Section) error {
	w := tabwriter.NewWriter(e.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BUDGET\tMEASURED\tAT MOST\t")
	for _, s := range sections {
		for _, v := range s.Values {
			if v.AtMost == nil {
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.Name, v, bench.Number(*v.AtMost, v.Unit), verdict(v))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range sections {
		for _, what := range s.Unmeasured {
			fmt.Fprintln(e.out, "not measured:", what)
		}
		for _, note := range s.Notes {
			fmt.Fprintf(e.out, "note: %s: %s\n", s.Name, note)
		}
	}
	return nil
}

func met(sections []bench.Section) bool {
	for _, s := range sections {
		if len(s.Unmeasured) > 0 {
			return false
		}
		for _, v := range s.Values {
			if !v.Met() {
				return false
			}
		}
	}
	return true
}
