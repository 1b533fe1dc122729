package stress

import (
	"slices"

	"github.com/agentkernel/agentkernel/internal/bench"
)

// Report says how a run went. Sizes are bytes.
type Report struct {
	// Seed is in the names of all sandboxes: stress-SEED-0, stress-SEED-1, …
	Seed        string `json:"seed"`
	Count       int    `json:"count"`
	Parallel    int    `json:"parallel"`
	Image       string `json:"image"`
	MemoryMiB   int    `json:"memory_mib"`
	Engine      string `json:"engine"`
	Accelerator string `json:"accelerator"`
	Kernel      string `json:"kernel"`

	Cold bool `json:"cold"` // all were to boot
	// From says how many went on from what: template, pool, boot.
	From map[string]int `json:"from"`

	// Passed sandboxes gave the right answer, and each of their steps succeeded.
	Passed       int       `json:"passed"`
	WrongAnswers int       `json:"wrong_answers"`
	Failed       int       `json:"failed"` // with the wrong answers
	Failures     []Failure `json:"failures,omitempty"`
	// Interrupted says that the rest was not begun, since the context ended.
	Interrupted bool `json:"interrupted,omitempty"`

	Steps       []bench.Summary `json:"steps"`
	WallSeconds float64         `json:"wall_seconds"`
	Memory      Memory          `json:"memory"`
	Daemon      Daemon          `json:"daemon"`

	// Left names everything that is left over.
	Left []string `json:"left,omitempty"`
	// Unchecked says what could not be looked at, and why.
	Unchecked []string `json:"unchecked,omitempty"`
}

// Failure is what went wrong with one sandbox. Of all failures the first are kept.
type Failure struct {
	Sandbox string `json:"sandbox"`
	Step    string `json:"step"`
	Error   string `json:"error"`
}

// maxFailures is how many failures a Report has.
const maxFailures = 10

// Memory is what the run took of the host, as PSS: what is shared is divided among those who share it.
type Memory struct {
	Samples int `json:"samples"` // of all VMMs and the daemon, at intervals; 0 when it is not known
	// Peak is the most that VMMs and daemon took together, and PeakVMMs how many VMMs there were then.
	Peak     uint64 `json:"peak_bytes,omitempty"`
	PeakVMMs int    `json:"peak_vmms,omitempty"`
	// A VMM's, when its sandbox has answered.
	VMMMin    uint64 `json:"vmm_min_bytes,omitempty"`
	VMMMedian uint64 `json:"vmm_median_bytes,omitempty"`
	VMMMax    uint64 `json:"vmm_max_bytes,omitempty"`
}

// Daemon is what became of the daemon.
type Daemon struct {
	MemoryBefore      uint64 `json:"memory_before_bytes,omitempty"`
	MemoryPeak        uint64 `json:"memory_peak_bytes,omitempty"`
	MemoryAfter       uint64 `json:"memory_after_bytes,omitempty"`
	DescriptorsBefore int    `json:"descriptors_before,omitempty"`
	DescriptorsAfter  int    `json:"descriptors_after,omitempty"`
}

// OK reports whether all sandboxes passed and nothing is left over.
func (r Report) OK() bool {
	return r.Passed == r.Count && r.Failed == 0 && len(r.Left) == 0 && !r.Interrupted
}

func (m *Memory) vmms(sizes []uint64) {
	if len(sizes) == 0 {
		return
	}
	slices.Sort(sizes)
	m.VMMMin, m.VMMMedian, m.VMMMax = sizes[0], sizes[(len(sizes)-1)/2], sizes[len(sizes)-1]
}
