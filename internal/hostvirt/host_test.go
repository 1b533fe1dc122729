package hostvirt

import (
	"testing"
	"time"
)

func TestInspect(t *testing.T) {
	h, err := Inspect()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", h)
	if h.MemoryMiB < 64 || h.CPUs < 1 || h.CPUModel == "" || h.Kernel == "" {
		t.Errorf("%+v lacks something", h)
	}
}

func TestRateKHz(t *testing.T) {
	at := time.Now()
	start := sample{ticks: 1 << 40, at: at}
	end := sample{ticks: 1<<40 + 2_399_988_000, at: at.Add(time.Second)}
	if got := rateKHz(start, end); got != 2_399_988 {
		t.Errorf("%d kHz, want 2399988", got)
	}
}

// Two measurements of one counter agree to a thousandth, or the guest's clock would run wrong.
func TestTSC(t *testing.T) {
	a, b := NewTSC().KHz(), NewTSC().KHz()
	t.Logf("%d and %d kHz", a, b)
	if a < 100_000 || a > 10_000_000 {
		t.Errorf("%d kHz is no rate of a TSC", a)
	}
	if d := a - b; d > a/1000 || d < -a/1000 {
		t.Errorf("two measurements differ: %d and %d kHz", a, b)
	}
}
