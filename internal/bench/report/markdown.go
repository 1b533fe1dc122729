package report

import (
	"fmt"
	"strings"

	"github.com/agentkernel/agentkernel/internal/bench"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Markdown is a whole report.
func Markdown(r bench.Report) string {
	var b strings.Builder
	b.WriteString(host(r))
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s", s.Title, section(s))
	}
	if table := budgets(r); table != "" {
		fmt.Fprintf(&b, "\n## Budgets\n\n%s", table)
	}
	return b.String()
}

func host(r bench.Report) string {
	return fmt.Sprintf("Measured on %s with version %s: %s.\n", r.Time.Format("2006-01-02"), r.Version, cell(r.Host.String()))
}

// section is what it was measured of, its times and its values.
func section(s bench.Section) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Of %s.\n", cell(s.Setup))
	if len(s.Times) > 0 {
		b.WriteString("\n| milliseconds | min | p50 | p95 | p99 | max |\n|---|---|---|---|---|---|\n")
		for _, t := range s.Times {
			fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.1f | %.1f | %.1f |\n", cell(t.Name), t.Min, t.P50, t.P95, t.P99, t.Max)
		}
	}
	if len(s.Values) > 0 {
		b.WriteString("\n| | |\n|---|---|\n")
		for _, v := range s.Values {
			fmt.Fprintf(&b, "| %s | %s |\n", cell(v.Name), v)
		}
	}
	for _, what := range s.Unmeasured {
		fmt.Fprintf(&b, "\nNot measured: %s.\n", cell(what))
	}
	for _, note := range s.Notes {
		fmt.Fprintf(&b, "\nNote: %s.\n", cell(note))
	}
	return b.String()
}

// budgets are all values that have one.
func budgets(r bench.Report) string {
	var b strings.Builder
	for _, s := range r.Sections {
		for _, v := range s.Values {
			if v.AtMost == nil {
				continue
			}
			if b.Len() == 0 {
				b.WriteString("| | measured | at most | |\n|---|---|---|---|\n")
			}
			verdict := "met"
			if !v.Met() {
				verdict = "**not met**"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", cell(v.Name), v, bench.Number(*v.AtMost, v.Unit), verdict)
		}
	}
	return b.String()
}

// cell is text that may stand in a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(s)
}

// Into puts what was measured between the markers of a document, in the place of what is there: <!-- bench NAME --> and
// <!-- /bench NAME -->, each a line of its own, where NAME is a section's name, or host, or budgets. All else stays, and so does a
// part of the document whose section the report does not have. missing are the sections that the document has no place for.
func Into(document string, r bench.Report) (updated string, missing []string, err error) {
	parts := map[string]string{"host": host(r)}
	order := []string{"host"}
	for _, s := range r.Sections {
		parts[s.Name] = section(s)
		order = append(order, s.Name)
	}
	if table := budgets(r); table != "" {
		parts["budgets"] = table
		order = append(order, "budgets")
	}
	for _, name := range order {
		open, end := "<!-- bench "+name+" -->\n", "<!-- /bench "+name+" -->\n"
		before, rest, ok := strings.Cut(document, open)
		if !ok {
			missing = append(missing, name)
			continue
		}
		_, after, ok := strings.Cut(rest, end)
		if !ok || strings.Contains(after, open) {
			return "", nil, sandbox.Errorf(sandbox.Invalid, "each has one line "+strings.TrimSpace(open)+" and one line "+strings.TrimSpace(end), "the document's marks of %q do not pair", name)
		}
		document = before + open + "\n" + parts[name] + "\n" + end + after
	}
	return document, missing, nil
}
