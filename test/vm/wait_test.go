package vm

import (
	"slices"

	"time"
)

// waitForState asks until the sandbox is in one of the states: the API has no events yet.
func (h *home) waitForState(name string, states ...string) {
	h.t.Helper()
	h.waitFor("the state "+states[0], func() bool { return slices.Contains(states, string(h.inspect(name).State)) })
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
