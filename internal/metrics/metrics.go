// Package metrics holds counters and writes them in the text format of Prometheus, version 0.0.4
// (prometheus.io/docs/instrumenting/exposition_formats).
//
// It is written here since it is small: the client library would make the daemon 1.3 MB larger, on disk and resident.
package metrics

import (
	"bufio"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Counters counts by the value of one label. Its methods may be called from any goroutine.
type Counters struct {
	mu     sync.Mutex
	values map[string]float64
}

// Add adds n, which is not negative, to the counter of a label's value.
func (c *Counters) Add(value string, n float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.values == nil {
		c.values = map[string]float64{}
	}
	c.values[value] += n
}

// Get returns the counter of a label's value.
func (c *Counters) Get(value string) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.values[value]
}

// Histograms counts observations into buckets, by the value of one label. Its methods may be called from any goroutine.
type Histograms struct {
	bounds []float64 // upper bounds, rising
	mu     sync.Mutex
	values map[string]*histogram
}

type histogram struct {
	counts []uint64 // by bound; the last is what is above all
	sum    float64
}

// NewHistograms returns one with buckets up to each of bounds, which rise, and one above.
func NewHistograms(bounds ...float64) *Histograms {
	return &Histograms{bounds: bounds, values: map[string]*histogram{}}
}

// Observe counts v for a label's value.
func (h *Histograms) Observe(value string, v float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.values[value]
	if one == nil {
		one = &histogram{counts: make([]uint64, len(h.bounds)+1)}
		h.values[value] = one
	}
	i, _ := slices.BinarySearch(h.bounds, v)
	one.counts[i]++
	one.sum += v
}

// Writer writes families of metrics, one after another. The first error sticks; Flush returns it.
type Writer struct{ w *bufio.Writer }

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{bufio.NewWriter(w)} }

// Flush writes what is buffered.
func (w *Writer) Flush() error { return w.w.Flush() }

// family begins a family. kind is counter, gauge or histogram.
func (w *Writer) family(name, kind, help string) {
	_, _ = w.w.WriteString("# HELP " + name + " " + strings.NewReplacer("\\", `\\`, "\n", `\n`).Replace(help) + "\n# TYPE " + name + " " + kind + "\n")
}

// sample writes one line. labels are pairs of a name and a value.
func (w *Writer) sample(name string, v float64, labels ...string) {
	_, _ = w.w.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		_, _ = w.w.WriteString(sep + labels[i] + `="` + strings.NewReplacer("\\", `\\`, "\n", `\n`, `"`, `\"`).Replace(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		_ = w.w.WriteByte('}')
	}
	_, _ = w.w.WriteString(" " + format(v) + "\n")
}

func format(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case math.IsNaN(v):
		return "NaN"
	case v == math.Trunc(v) && math.Abs(v) < 1<<53:
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// Value is one member of a family.
type Value struct {
	Label string // the value of the family's label
	Value float64
}

// One writes a family of a single metric without labels. kind is counter or gauge.
func (w *Writer) One(name, kind, help string, v float64) {
	w.family(name, kind, help)
	w.sample(name, v)
}

// Family writes a family with one label. kind is counter or gauge.
func (w *Writer) Family(name, kind, help, label string, values []Value) {
	w.family(name, kind, help)
	for _, v := range values {
		w.sample(name, v.Value, label, v.Label)
	}
}

// Counters writes c; each of the known values is there, also when it is 0.
func (w *Writer) Counters(name, help, label string, c *Counters, known ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	values := make([]Value, 0, len(known))
	for _, k := range known {
		values = append(values, Value{k, c.values[k]})
	}
	for k, v := range c.values {
		if !slices.Contains(known, k) {
			values = append(values, Value{k, v})
		}
	}
	w.Family(name, "counter", help, label, values)
}

// Histograms writes h. With an empty label, there is one value, and it has no label.
func (w *Writer) Histograms(name, help, label string, h *Histograms) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.family(name, "histogram", help)
	for value, one := range h.values {
		var labels []string
		if label != "" {
			labels = []string{label, value}
		}
		total := uint64(0)
		for i, n := range one.counts {
			total += n
			bound := math.Inf(1)
			if i < len(h.bounds) {
				bound = h.bounds[i]
			}
			w.sample(name+"_bucket", float64(total), append(slices.Clone(labels), "le", format(bound))...)
		}
		w.sample(name+"_sum", one.sum, labels...)
		w.sample(name+"_count", float64(total), labels...)
	}
}
