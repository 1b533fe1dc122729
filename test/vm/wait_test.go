package vm

import (
	"slices"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// waitForState returns when the sandbox is, or has come to, one of the states.
func (h *home) waitForState(name string, states ...string) {
	h.t.Helper()
	next := h.follow(client.EventOptions{Sandboxes: []string{name}, Types: []string{"sandbox.state"}})
	if slices.Contains(states, string(h.inspect(name).State)) {
		return
	}
	next(func(ev client.Event) bool { return slices.Contains(states, *ev.To) })
}

// waitFor asks until ok, and fails the test when that takes too long.
func (h *home) waitFor(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			h.t.Fatalf("waited %v for %s", patience, what)
		}
	}
}
