// Package bench measures agentkernel as a user meets it, through the daemon's API and through the command line.
package bench

import (
	"slices"
	"time"
)

// Series is a row of measurements of one thing.
type Series struct {
	Name    string
	Samples []time.Duration
}

// Quantile returns the q-quantile (0 to 1) by the nearest rank, and 0 for an empty series.
func (s Series) Quantile(q float64) time.Duration {
	if len(s.Samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.Samples))
	rank := int(q*float64(len(sorted)) + 0.999999) // ceil
	return sorted[min(max(rank-1, 0), len(sorted)-1)]
}

// Summary is what is printed of a series. Times are in milliseconds.
type Summary struct {
	Name string  `json:"name"`
	N    int     `json:"n"`
	Min  float64 `json:"min_ms"`
	P50  float64 `json:"p50_ms"`
	P95  float64 `json:"p95_ms"`
	P99  float64 `json:"p99_ms"`
	Max  float64 `json:"max_ms"`
}

// Summary of s.
func (s Series) Summary() Summary {
	ms := func(q float64) float64 { return float64(s.Quantile(q).Microseconds()) / 1000 }
	return Summary{Name: s.Name, N: len(s.Samples), Min: ms(0), P50: ms(0.5), P95: ms(0.95), P99: ms(0.99), Max: ms(1)}
}

// Table collects series in the order in which their names first appear.
type Table struct{ Series []Series }

// Add a measurement to the series of this name.
func (t *Table) Add(name string, d time.Duration) {
	for i := range t.Series {
		if t.Series[i].Name == name {
			t.Series[i].Samples = append(t.Series[i].Samples, d)
			return
		}
	}
	t.Series = append(t.Series, Series{name, []time.Duration{d}})
}

// Summaries of all series.
func (t *Table) Summaries() []Summary {
	list := make([]Summary, len(t.Series))
	for i, s := range t.Series {
		list[i] = s.Summary()
	}
	return list
}
