package report

import (
	"math"

	"github.com/agentkernel/agentkernel/internal/bench"
)

// panel is one set of bars with an axis.
type panel struct {
	unit string
	axis string // what the bars are
	rows []bars
	max  float64
}

// bars are one thing, as each of the runs has measured it.
type bars struct {
	label string
	runs  []bar // one a run; absent where that run does not have it
}

type bar struct {
	present     bool
	value       float64
	least, most float64 // the line over the bar; equal where there is none
}

// panelsOf are the bars of a section of this name in all runs: one panel for times, and one for each unit that several values
// share. Ratios and counts are told in text.
func panelsOf(name string, runs []bench.Report) []panel {
	times := panel{unit: "ms", axis: "milliseconds; bar: p50, line: min to p95"}
	var values []panel
	for i, run := range runs {
		for _, s := range run.Sections {
			if s.Name != name {
				continue
			}
			for _, t := range s.Times {
				times.add(t.Name, i, len(runs), bar{true, t.P50, t.Min, t.P95})
			}
			for _, v := range s.Values {
				if v.Unit == bench.Ratio || v.Unit == bench.Count {
					continue
				}
				at := -1
				for k := range values {
					if values[k].unit == v.Unit {
						at = k
					}
				}
				if at < 0 {
					values = append(values, panel{unit: v.Unit, axis: v.Unit})
					at = len(values) - 1
				}
				values[at].add(v.Name, i, len(runs), bar{true, v.Value, v.Value, v.Value})
			}
		}
	}
	var panels []panel
	if len(times.rows) > 0 {
		panels = append(panels, times)
	}
	for _, p := range values {
		if len(p.rows) > 1 {
			panels = append(panels, p)
		}
	}
	return panels
}

func (p *panel) add(label string, run, runs int, b bar) {
	p.max = max(p.max, b.most)
	for i := range p.rows {
		if p.rows[i].label == label {
			p.rows[i].runs[run] = b
			return
		}
	}
	row := bars{label: label, runs: make([]bar, runs)}
	row.runs[run] = b
	p.rows = append(p.rows, row)
}

// shown reports whether the panels have the value as a bar.
func shown(panels []panel, v bench.Value) bool {
	for _, p := range panels {
		for _, r := range p.rows {
			if p.unit == v.Unit && r.label == v.Name {
				return true
			}
		}
	}
	return false
}

// ticks are the marks of an axis from 0 to at least most: 1, 2 or 5 times a power of ten apart, four to eight of them.
func ticks(most float64) (step float64, n int) {
	if most <= 0 {
		most = 1
	}
	step = math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, factor := range []float64{2, 2.5, 2} {
		if most/step > 8 {
			step *= factor
		}
	}
	return step, int(math.Ceil(most/step - 1e-9))
}
