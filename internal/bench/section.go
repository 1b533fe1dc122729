package bench

import (
	"fmt"
	"time"
)

// Format is the version of a Report's JSON.
const Format = 1

// Report is what one run has measured, and where: the JSON of bench.
type Report struct {
	Format   int       `json:"format"`
	Time     time.Time `json:"time"`
	Version  string    `json:"version"` // of agentkernel
	Host     Host      `json:"host"`
	Sections []Section `json:"sections"`
}

// Section is what one benchmark has measured.
type Section struct {
	Name   string    `json:"name"`  // of the benchmark
	Title  string    `json:"title"` // what was measured
	Setup  string    `json:"setup"` // of what, and how often
	Times  []Summary `json:"times,omitempty"`
	Values []Value   `json:"values,omitempty"`
	Notes  []string  `json:"notes,omitempty"`
	// Unmeasured are budgets that could not be looked at, with the reason.
	Unmeasured []string `json:"unmeasured,omitempty"`
}

// The units of values, besides those that need no word.
const (
	Ratio = "ratio" // of the first thing in the name to the second
	Count = "count"
)

// Value is one number.
type Value struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"` // Ratio, Count, s, ms, MiB, MiB/s, %, …
	// AtMost is the budget; nil where there is none.
	AtMost *float64 `json:"at_most,omitempty"`
}

// Met reports whether the value is within its budget. One without is.
func (v Value) Met() bool { return v.AtMost == nil || v.Value <= *v.AtMost }

// String is the number with its unit.
func (v Value) String() string { return Number(v.Value, v.Unit) }

// Number writes a number as one of this unit.
func Number(n float64, unit string) string {
	switch unit {
	case Ratio:
		return fmt.Sprintf("%.2f", n)
	case Count:
		return fmt.Sprintf("%.0f", n)
	}
	if n < 10 {
		return fmt.Sprintf("%.2f %s", n, unit)
	}
	return fmt.Sprintf("%.1f %s", n, unit)
}

// Add a number.
func (s *Section) Add(name string, value float64, unit string) {
	s.Values = append(s.Values, Value{Name: name, Value: value, Unit: unit})
}

// Budget adds a number that is to be at most so large.
func (s *Section) Budget(name string, value float64, unit string, atMost float64) {
	s.Values = append(s.Values, Value{Name: name, Value: value, Unit: unit, AtMost: &atMost})
}

// Note adds a remark.
func (s *Section) Note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// Quantile of the series of this name, and 0 where there is none.
func (t *Table) Quantile(name string, q float64) time.Duration {
	for _, s := range t.Series {
		if s.Name == name {
			return s.Quantile(q)
		}
	}
	return 0
}

// Median of the series of this name, and 0 where there is none.
func (t *Table) Median(name string) time.Duration { return t.Quantile(name, 0.5) }

// Over is the ratio of the medians of two series; ok is false where one was not measured.
func (t *Table) Over(name, of string) (ratio float64, ok bool) {
	a, b := t.Median(name), t.Median(of)
	if a == 0 || b == 0 {
		return 0, false
	}
	return float64(a) / float64(b), true
}
