package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/agentkernel/agentkernel/internal/bench/report"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func benchReportCommand(e *env) *cobra.Command {
	var output, into string
	var markdown bool
	cmd := &cobra.Command{
		Use: "report FILE…", Short: "Draw what bench --json has printed: a chart, or tables", Args: cobra.MinimumNArgs(1),
		Long: fmt.Sprintf("Draw what bench --json has printed as an SVG chart, up to %d runs beside each other, or with --markdown one run as tables.\n"+
			"--into FILE puts the tables of one run between the marks of a Markdown document, <!-- bench NAME --> and <!-- /bench NAME -->,\n"+
			"where NAME is a benchmark, or host, or budgets; all else in the document stays.", report.MaxRuns),
		Example: "  agentkernel bench report run.json -o run.svg\n  agentkernel bench report run.json --into docs/performance.md",
		RunE: func(_ *cobra.Command, args []string) error {
			if e.json {
				return sandbox.Errorf(sandbox.Invalid, "leave --json out: the files are JSON", "a report is not printed as JSON")
			}
			if (markdown || into != "") && len(args) > 1 {
				return sandbox.Errorf(sandbox.Invalid, "give one file", "tables are of one run")
			}
			if len(args) > report.MaxRuns {
				return sandbox.Errorf(sandbox.Invalid, fmt.Sprintf("give up to %d files", report.MaxRuns), "a chart of %d runs cannot be read", len(args))
			}
			runs := make([]report.Run, len(args))
			for i, path := range args {
				r, err := report.Read(path)
				if err != nil {
					return err
				}
				runs[i] = report.Run{Name: strings.TrimSuffix(filepath.Base(path), ".json"), Report: r}
			}
			switch {
			case into != "":
				return e.reportInto(into, runs[0])
			case markdown:
				return e.reportTo(output, report.Markdown(runs[0].Report))
			}
			return e.reportTo(output, report.Chart(runs))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write (default: stdout)")
	cmd.Flags().BoolVar(&markdown, "markdown", false, "tables in Markdown, in place of the chart")
	cmd.Flags().StringVar(&into, "into", "", "Markdown document to put the tables into")
	cmd.MarkFlagsMutuallyExclusive("output", "into")
	cmd.MarkFlagsMutuallyExclusive("markdown", "into")
	return cmd
}

func (e *env) reportTo(file, text string) error {
	if file == "" {
		_, err := io.WriteString(e.out, text)
		return err
	}
	if err := renameio.WriteFile(file, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// reportInto writes the document anew, whole or not at all.
func (e *env) reportInto(document string, r report.Run) error {
	text, err := os.ReadFile(document)
	if err != nil {
		return sandbox.Errorf(sandbox.NotFound, "", "read the document: %w", err)
	}
	updated, missing, err := report.Into(string(text), r.Report)
	if err != nil {
		return err
	}
	for _, name := range missing {
		fmt.Fprintf(e.errOut, "agentkernel: warning: %s has no place for %s\n", document, name)
	}
	return e.reportTo(document, updated)
}
