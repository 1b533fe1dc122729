package hostvirt

import (
	"math"
	"runtime"
	"time"
)

// minTSCInterval is the shortest interval that a rate is measured over. Reading the two clocks is off by some 100 ns, so
// the rate is right to 10 ppm then, and the better the longer ago NewTSC was called.
const minTSCInterval = 20 * time.Millisecond

// TSC measures the rate of the time-stamp counter that a guest under TCG sees.
//
// On x86 hosts that is the host's own counter. Elsewhere QEMU counts nanoseconds of its own clock instead, so the rate is
// exactly 1 GHz: cpu_get_host_ticks in QEMU's include/qemu/timer.h.
type TSC struct {
	start sample
}

// sample is one reading of both clocks.
type sample struct {
	ticks uint64
	at    time.Time // with its monotonic reading
}

// NewTSC begins the measurement.
func NewTSC() *TSC {
	if !hasTSC {
		return &TSC{}
	}
	return &TSC{start: takeSample()}
}

// KHz returns the rate in kHz. When less than 20 ms have passed since NewTSC it keeps the CPU busy until they have.
func (t *TSC) KHz() int {
	if !hasTSC {
		return 1_000_000
	}
	end := takeSample()
	for end.at.Sub(t.start.at) < minTSCInterval {
		runtime.Gosched()
		end = takeSample()
	}
	return rateKHz(t.start, end)
}

func rateKHz(start, end sample) int {
	return int(math.Round(float64(end.ticks-start.ticks) * 1e6 / float64(end.at.Sub(start.at).Nanoseconds())))
}

// takeSample reads the counter before and after the clock and keeps the closest of three readings, so that being
// interrupted in between does not matter.
func takeSample() sample {
	var best sample
	closest := uint64(math.MaxUint64)
	for range 3 {
		before := readTSC()
		at := time.Now()
		after := readTSC()
		if d := after - before; d < closest {
			closest, best = d, sample{ticks: before + d/2, at: at}
		}
	}
	return best
}
