package cli

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	units "github.com/docker/go-units"

	"github.com/agentkernel/agentkernel/internal/terminal"
)

// meter counts bytes and, on a terminal, shows them and their rate as they come.
type meter struct {
	w     io.Writer
	show  bool
	began time.Time
	bytes atomic.Int64
	drawn atomic.Int64 // when the line was written last: nanoseconds since began; 0: never
}

// redraw is how often the line is written at most.
const redraw = 200 * time.Millisecond

func newMeter(w io.Writer, quiet bool) *meter {
	return &meter{w: w, show: !quiet && terminal.Is(w), began: time.Now()}
}

// reader counts what is read from r, by one goroutine.
func (m *meter) reader(r io.Reader) io.Reader { return &meterReader{m, r} }

type meterReader struct {
	m *meter
	r io.Reader
}

func (r *meterReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.m.bytes.Add(int64(n))
	if r.m.show {
		if at, last := time.Since(r.m.began), r.m.drawn.Load(); at-time.Duration(last) >= redraw {
			r.m.drawn.Store(int64(at))
			fmt.Fprintf(r.m.w, "\r\033[K%s", r.m.text())
		}
	}
	return n, err
}

func (m *meter) total() int64 { return m.bytes.Load() }

// text is the count and the rate.
func (m *meter) text() string {
	n, took := m.bytes.Load(), time.Since(m.began)
	return fmt.Sprintf("%s (%s/s)", units.BytesSize(float64(n)), units.BytesSize(float64(n)/max(took.Seconds(), 1e-3)))
}

// end takes the line away.
func (m *meter) end() {
	if m.drawn.Load() != 0 {
		fmt.Fprint(m.w, "\r\033[K")
	}
}
