package vm

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/bench/stress"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// The stress test with few microVMs, two at once.
func TestStress(t *testing.T) {
	h := newHome(t)
	for _, tc := range []struct {
		from string
		args []string
	}{{"template", nil}, {"boot", []string{"--cold"}}} {
		h.stress(tc.from, tc.args...)
	}
}

func (h *home) stress(from string, args ...string) {
	h.t.Helper()
	t := h.t
	args = append([]string{"stress", "--count", "3", "--parallel", "2", "--json"}, args...)
	if *engineAsked != "" {
		args = append(args, "--engine", *engineAsked)
	}
	var r stress.Report
	if err := json.Unmarshal([]byte(h.ok(args...)), &r); err != nil {
		t.Fatal(err)
	}
	if !r.OK() || r.Passed != 3 || r.From[from] != 3 || len(r.Unchecked) != 0 || r.Memory.VMMMin == 0 || r.Daemon.DescriptorsAfter == 0 {
		t.Errorf("%+v", r)
	}
	for _, s := range r.Steps {
		if s.N != 3 || s.Min <= 0 || s.Max < s.P50 {
			t.Errorf("%+v", s)
		}
	}
}

// Ctrl-C removes what was begun. That nothing is left of it is looked for at the end of each test.
func TestStressIsInterrupted(t *testing.T) {
	h := newHome(t)
	next := h.follow(client.EventOptions{Types: []string{"exec.end"}})
	cmd := h.command("stress", "--count", "500", "--parallel", "2")
	interrupted := make(chan result)
	go func() { interrupted <- h.wait(cmd) }()
	for range 2 { // the first one's, and one that counts
		next(func(client.Event) bool { return true })
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	r := <-interrupted
	if r.code != 130 || !strings.Contains(r.stdout, " of 500") || !strings.Contains(r.stdout, "left over") || !strings.Contains(r.stderr, "agentkernel: interrupted") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	if list := h.list(); len(list.Sandboxes) != 0 {
		t.Errorf("%d sandboxes are still there", len(list.Sandboxes))
	}
}
