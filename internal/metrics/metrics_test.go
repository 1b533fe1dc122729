package metrics

import (
	"math"
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	var c Counters
	c.Add("ok", 2)
	c.Add("odd \"\\\n", 0.5)
	h := NewHistograms(0.1, 1)
	for _, v := range []float64{0.05, 0.1, 0.5, 7} {
		h.Observe("boot", v)
	}
	single := NewHistograms(1)
	single.Observe("", 2)
	var b strings.Builder
	w := NewWriter(&b)
	w.Counters("a_total", "What\nis \\ it.", "result", &c, "ok", "failed")
	w.Histograms("b_seconds", "Time.", "stage", h)
	w.Histograms("c_seconds", "Time.", "", single)
	w.One("d", "gauge", "One.", math.Inf(1))
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	want := `# HELP a_total What\nis \\ it.
# TYPE a_total counter
a_total{result="ok"} 2
a_total{result="failed"} 0
a_total{result="odd \"\\\n"} 0.5
# HELP b_seconds Time.
# TYPE b_seconds histogram
b_seconds_bucket{stage="boot",le="0.1"} 2
b_seconds_bucket{stage="boot",le="1"} 3
b_seconds_bucket{stage="boot",le="+Inf"} 4
b_seconds_sum{stage="boot"} 7.65
b_seconds_count{stage="boot"} 4
# HELP c_seconds Time.
# TYPE c_seconds histogram
c_seconds_bucket{le="1"} 0
c_seconds_bucket{le="+Inf"} 1
c_seconds_sum 2
c_seconds_count 1
# HELP d One.
# TYPE d gauge
d +Inf
`
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
}
