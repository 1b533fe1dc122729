package report

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/agentkernel/agentkernel/internal/bench"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is a run with everything that a report can have.
func sample() bench.Report {
	r := bench.Report{
		Format: bench.Format, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: "v1.2.3",
		Host: bench.Host{CPU: "Some <CPU> & more", CPUs: 2, MemoryMiB: 4096, System: "Debian 12", Kernel: "6.1.0", Arch: "amd64", VMMs: []string{"qemu 7.2.0 (tcg)"}},
	}
	exec := bench.Section{Name: "exec", Title: "An exec", Setup: "image base, 1 vCPU, 128 MiB; true, 100 times in turns", Times: []bench.Summary{
		{Name: "agentkernel exec", N: 100, Min: 9, P50: 10.5, P95: 14, P99: 17, Max: 23.25},
		{Name: "docker exec", N: 100, Min: 45, P50: 57.4, P95: 66.8, P99: 72.2, Max: 80},
	}}
	exec.Add("agentkernel exec / docker exec", 0.183, bench.Ratio)
	memory := bench.Section{Name: "memory", Title: "Memory of idle sandboxes", Setup: "4 at once"}
	memory.Add("a VMM, cold-booted (PSS), median, with a name that is much longer than what there is room for", 115.66, "MiB")
	memory.Add("the daemon's share | of each", 0.02, "MiB")
	memory.Budget("a clone / cold-booted", 0.45, bench.Ratio, 0.5)
	memory.Budget("failures", 3, bench.Count, 0)
	memory.Note("not checked: sockets")
	r.Sections = []bench.Section{exec, memory}
	return r
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", name, diff)
	}
}

func TestMarkdown(t *testing.T) { golden(t, "run.md", Markdown(sample())) }

func TestChart(t *testing.T) {
	one := Chart([]Run{{"a.json", sample()}})
	golden(t, "one.svg", one)
	other := sample()
	other.Sections = append(other.Sections[:1:1], bench.Section{Name: "boot", Title: "A cold boot", Setup: "other", Times: []bench.Summary{{Name: "start", N: 1, Min: 5, P50: 5, P95: 5, P99: 5, Max: 5}}})
	other.Sections[0].Times = other.Sections[0].Times[1:]
	two := Chart([]Run{{"a.json", sample()}, {"b & c.json", other}})
	golden(t, "two.svg", two)
	for name, svg := range map[string]string{"one": one, "two": two} {
		dec := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := dec.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s is not well-formed: %v", name, err)
			}
		}
	}
}

func TestTicks(t *testing.T) {
	for most, want := range map[float64]struct {
		step float64
		n    int
	}{0: {0.2, 5}, 1: {0.2, 5}, 4: {1, 4}, 8: {1, 8}, 9: {2, 5}, 60: {10, 6}, 100: {20, 5}, 2100: {500, 5}} {
		step, n := ticks(most)
		if d := step - want.step; d > 1e-9 || d < -1e-9 || n != want.n {
			t.Errorf("%v: %d steps of %v, want %d of %v", most, n, step, want.n, want.step)
		}
	}
}

func TestInto(t *testing.T) {
	const document = `# Performance

<!-- bench host -->
<!-- /bench host -->
Prose stays.
<!-- bench memory -->
old
<!-- /bench memory -->
<!-- bench boot -->
kept: it was not measured
<!-- /bench boot -->
`
	r := sample()
	got, missing, err := Into(document, r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"exec", "budgets"}, missing); diff != "" {
		t.Error("missing", diff)
	}
	for _, want := range []string{"Measured on 2026-01-02 with version v1.2.3", "Prose stays.\n", "| the daemon's share \\| of each | 0.02 MiB |\n", "kept: it was not measured\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "old\n") {
		t.Errorf("what was there is there still:\n%s", got)
	}
	if again, _, err := Into(got, r); err != nil || again != got {
		t.Errorf("a second time changes it (%v):\n%s", err, cmp.Diff(got, again))
	}
	for _, broken := range []string{"<!-- bench host -->\n", "<!-- bench host -->\n<!-- /bench host -->\n<!-- bench host -->\n"} {
		if _, _, err := Into(broken, r); err == nil || !strings.Contains(err.Error(), `the document's marks of "host" do not pair`) {
			t.Errorf("%q: %v", broken, err)
		}
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.json")
	for content, want := range map[string]string{
		"":                                 "is no report",
		"{}":                               "has format 0",
		`{"format":2}`:                     "has format 2",
		`{"format":1,"sections":[1]}`:      "is no report",
		strings.Repeat(" ", maxFile) + "{": "it is no report",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.50q: %v, want %q", content, err, want)
		}
	}
	if err := os.WriteFile(path, []byte(`{"format":1,"version":"v1","sections":[{"name":"boot"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := Read(path); err != nil || r.Version != "v1" || len(r.Sections) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
