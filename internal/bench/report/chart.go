package report

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"

	"github.com/agentkernel/agentkernel/internal/bench"
)

// Run is a report with a name for the legend.
type Run struct {
	Name   string
	Report bench.Report
}

// Measures of the chart, in pixels.
const (
	width      = 960
	margin     = 24
	labelEnd   = 372 // where labels end and bars begin
	barsEnd    = 800 // where the axis ends; numbers stand behind
	barHeight  = 12
	rowGap     = 8
	lineHeight = 18
)

// characters is how many of them fit in so many pixels, of text of 12 pixels, on average.
func characters(pixels int) int { return pixels * 10 / 64 }

// palette is the colour of each run's bars, for a light and for a dark background.
var palette = [...][2]string{{"#0969da", "#4493f8"}, {"#bc4c00", "#f0883e"}, {"#1a7f37", "#3fb950"}, {"#8250df", "#ab7df8"}}

// MaxRuns is how many runs one chart can have.
const MaxRuns = len(palette)

// Chart draws the runs beside each other, as an SVG that is readable on a light and on a dark background: it follows the reader's
// preference.
func Chart(runs []Run) string {
	c := &chart{y: margin}
	reports := make([]bench.Report, len(runs))
	for i, r := range runs {
		reports[i] = r.Report
	}
	c.line("title", margin, "What agentkernel takes")
	for i, r := range runs {
		c.legend(i, len(runs), r)
	}
	for _, name := range names(reports) {
		c.section(name, reports)
	}
	c.y += margin / 2
	return header(c.y) + c.body.String() + "</svg>\n"
}

// chart grows downwards.
type chart struct {
	body strings.Builder
	y    int
}

// names are those of the sections of all runs, in the order in which they first appear.
func names(runs []bench.Report) []string {
	var list []string
	seen := map[string]bool{}
	for _, r := range runs {
		for _, s := range r.Sections {
			if !seen[s.Name] {
				seen[s.Name] = true
				list = append(list, s.Name)
			}
		}
	}
	return list
}

func header(height int) string {
	var light, dark strings.Builder
	for i, colour := range palette {
		fmt.Fprintf(&light, ".c%d{fill:%s}", i, colour[0])
		fmt.Fprintf(&dark, ".c%d{fill:%s}", i, colour[1])
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]d %[2]d" width="%[1]d" height="%[2]d" role="img" aria-label="What agentkernel takes">
<style>
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;fill:#1f2328}
.title{font-size:18px;font-weight:600}.head{font-size:15px;font-weight:600}.muted{fill:#59636e}.bad{fill:#cf222e;font-weight:600}
.end{text-anchor:end}.middle{text-anchor:middle}.page{fill:#fff}.grid{stroke:#d1d9e0}.range{stroke:#1f2328}%s
@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.muted{fill:#9198a1}.bad{fill:#ff7b72}.page{fill:#0d1117}.grid{stroke:#3d444d}.range{stroke:#f0f6fc}%s}
</style>
<rect class="page" width="%[1]d" height="%[2]d"/>
`, width, height, light.String(), dark.String())
}

// text writes at the baseline y.
func (c *chart) text(class string, x, y int, s string) {
	fmt.Fprintf(&c.body, "<text x=\"%d\" y=\"%d\"", x, y)
	if class != "" {
		fmt.Fprintf(&c.body, " class=%q", class)
	}
	c.body.WriteString(">" + escape(s) + "</text>\n")
}

// line writes a line of text and moves on.
func (c *chart) line(class string, x int, s string) {
	c.y += lineHeight
	c.text(class, x, c.y, s)
}

// paragraph writes text on as many lines as it takes.
func (c *chart) paragraph(class string, s string) {
	most := characters(width - 2*margin)
	line := ""
	for _, word := range strings.Fields(s) {
		if line != "" && len(line)+1+len(word) > most {
			c.line(class, margin, line)
			line = ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	c.line(class, margin, line)
}

// legend says what a run is, and which colour it has when there are several.
func (c *chart) legend(i, of int, r Run) {
	what := fmt.Sprintf("%s, version %s: %s", r.Report.Time.Format("2006-01-02"), r.Report.Version, r.Report.Host)
	if of > 1 {
		fmt.Fprintf(&c.body, "<rect class=\"c%d\" x=\"%d\" y=\"%d\" width=\"10\" height=\"10\"/>\n", i, margin, c.y+lineHeight-9)
		c.line("", margin+16, r.Name)
	}
	c.paragraph("muted", what)
}

func (c *chart) section(name string, runs []bench.Report) {
	panels := panelsOf(name, runs)
	first := true
	for _, run := range runs {
		for _, s := range run.Sections {
			if s.Name == name && first {
				first = false
				c.y += lineHeight
				c.line("head", margin, s.Title)
				c.paragraph("muted", s.Setup)
			}
		}
	}
	for _, p := range panels {
		c.panel(p)
	}
	for i, run := range runs {
		for _, s := range run.Sections {
			if s.Name == name {
				c.values(s, panels, i, len(runs))
			}
		}
	}
}

// values are what the panels do not have, in text.
func (c *chart) values(s bench.Section, panels []panel, run, of int) {
	for _, v := range s.Values {
		if shown(panels, v) && v.AtMost == nil {
			continue
		}
		c.y += lineHeight
		if of > 1 {
			fmt.Fprintf(&c.body, "<rect class=\"c%d\" x=\"%d\" y=\"%d\" width=\"10\" height=\"10\"/>\n", run, margin, c.y-9)
		}
		text, class := v.Name+": "+v.String(), ""
		if v.AtMost != nil {
			text += ", at most " + bench.Number(*v.AtMost, v.Unit)
			if !v.Met() {
				text, class = text+": not met", "bad"
			}
		}
		c.text(class, margin+16, c.y, text)
	}
}

func (c *chart) panel(p panel) {
	c.y += rowGap
	step, n := ticks(p.max)
	x := func(v float64) float64 { return labelEnd + v/(step*float64(n))*(barsEnd-labelEnd) }
	top := c.y
	height := 0
	for _, r := range p.rows {
		height += rowGap + barHeight*len(r.runs)
	}
	bottom := top + height + rowGap
	for i := range n + 1 {
		at := x(step * float64(i))
		fmt.Fprintf(&c.body, "<path class=\"grid\" d=\"M%.1f %dV%d\"/>\n", at, top, bottom)
		c.text("muted middle", int(at+0.5), bottom+14, strconv.FormatFloat(step*float64(i), 'f', -1, 64))
	}
	for _, r := range p.rows {
		c.y += rowGap
		middle := c.y + barHeight*len(r.runs)/2
		c.text("end", labelEnd-8, middle+4, cut(r.label))
		for i, b := range r.runs {
			if b.present {
				c.bar(i, b, x, p.unit)
			}
			c.y += barHeight
		}
	}
	c.y = bottom + 14
	c.y += lineHeight - 4
	c.text("muted end", barsEnd, c.y, p.axis)
}

// bar draws one at c.y.
func (c *chart) bar(run int, b bar, x func(float64) float64, unit string) {
	middle := float64(c.y) + barHeight/2
	fmt.Fprintf(&c.body, "<rect class=\"c%d\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", run, labelEnd, c.y+1, max(1, x(b.value)-labelEnd), barHeight-2)
	if b.most > b.least {
		fmt.Fprintf(&c.body, "<path class=\"range\" d=\"M%.1f %.1fH%.1f\"/>\n", x(b.least), middle, x(b.most))
	}
	c.text("", int(x(max(b.value, b.most)))+6, int(middle)+4, bench.Number(b.value, unit))
}

// cut shortens a label to what there is room for.
func cut(label string) string {
	most := characters(labelEnd - margin - 8)
	if r := []rune(label); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return label
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}
