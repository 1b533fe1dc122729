package bench

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	var s Series
	for i := 100; i >= 1; i-- {
		s.Samples = append(s.Samples, time.Duration(i))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.01: 1, 0.5: 50, 0.95: 95, 0.99: 99, 1: 100} {
		if got := s.Quantile(q); got != want {
			t.Errorf("quantile %v = %d, want %d", q, got, want)
		}
	}
	if s.Samples[0] != 100 {
		t.Error("Quantile sorted the samples in place")
	}
	if got := (Series{Samples: []time.Duration{7}}).Quantile(0.5); got != 7 {
		t.Error("one sample:", got)
	}
	if got := (Series{}).Quantile(0.5); got != 0 {
		t.Error("no sample:", got)
	}
}
