package vm

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/bench"
)

// bench runs one benchmark.
func (h *home) bench(args ...string) bench.Section {
	h.t.Helper()
	args = append([]string{"bench", "--json"}, args...)
	if *engineAsked != "" {
		args = append(args, "--engine", *engineAsked)
	}
	var r bench.Report
	if err := json.Unmarshal([]byte(h.ok(args...)), &r); err != nil {
		h.t.Fatal(err)
	}
	if r.Format != bench.Format || len(r.Sections) != 1 || r.Sections[0].Name != args[2] || r.Host.CPUs == 0 || len(r.Host.VMMs) == 0 {
		h.t.Fatalf("%+v", r)
	}
	return r.Sections[0]
}

// Each benchmark runs, with numbers that can be, and leaves nothing behind. How large they are is nobody's business here.
func TestBench(t *testing.T) {
	h := newHome(t)
	for _, args := range [][]string{
		{"boot", "-n", "1"},
		{"start", "-n", "1"},
		{"run", "-n", "1"},
		{"snapshot", "-n", "1"},
		{"fork", "-n", "1"},
		{"exec", "-n", "2", "--parallel", "2"},
		{"cp", "--size", "1M", "--files", "10"},
		{"memory", "-n", "2"},
		{"idle", "--for", "100ms"},
		{"stress", "-n", "2", "--parallel", "2"},
	} {
		s := h.bench(args...)
		if s.Title == "" || !strings.Contains(s.Setup, "base") || len(s.Times)+len(s.Values) == 0 {
			t.Errorf("%s: %+v", args[0], s)
		}
		for _, row := range s.Times {
			if row.N < 1 || row.Min < 0 || row.Max <= 0 || row.P50 < row.Min || row.P50 > row.Max {
				t.Errorf("%s: %+v", args[0], row)
			}
		}
		for _, v := range s.Values {
			if v.Name == "" || v.Unit == "" || v.Value < 0 && !strings.HasPrefix(v.Name, "the daemon's share") {
				t.Errorf("%s: %+v", args[0], v)
			}
		}
	}
	if list := h.list(); len(list.Sandboxes) != 0 {
		t.Errorf("%d sandboxes are left", len(list.Sandboxes))
	}
}
