package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/docker/go-units"

	"github.com/agentkernel/agentkernel/internal/image/oci"
	"github.com/agentkernel/agentkernel/internal/terminal"
)

// pullProgress shows how far a pull is: one line that changes on a terminal, else a line for each layer that is done.
type pullProgress struct {
	out      io.Writer
	terminal bool

	mu     sync.Mutex
	layers map[string]oci.Event
	drawn  time.Time
	shown  bool
}

func newPullProgress(out io.Writer) *pullProgress {
	return &pullProgress{out: out, terminal: terminal.Is(out), layers: map[string]oci.Event{}}
}

// say prints a line.
func (p *pullProgress) say(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintln(p.out, "image:", line)
}

func (p *pullProgress) clear() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}

// whole shows the last step, which has no measure, and clears what is shown when it is over.
func (p *pullProgress) whole(phase oci.Phase) {
	p.clear()
	switch {
	case phase != oci.Writing:
	case p.terminal:
		fmt.Fprint(p.out, "writing the image")
		p.shown = true
	default:
		fmt.Fprintln(p.out, "image: writing it")
	}
}

func (p *pullProgress) tell(e oci.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Layer == "" {
		p.whole(e.Phase)
		return
	}
	before := p.layers[e.Layer]
	if e.Phase != oci.Downloading {
		e.Have, e.Total = before.Have, before.Total
	}
	p.layers[e.Layer] = e
	if !p.terminal {
		if e.Phase == oci.Done {
			fmt.Fprintf(p.out, "image: layer %s is there\n", e.Layer)
		}
		return
	}
	if e.Phase == before.Phase && time.Since(p.drawn) < 100*time.Millisecond {
		return
	}
	p.drawn = time.Now()
	p.clear()
	var have, total int64
	done := 0
	for _, l := range p.layers {
		have, total = have+l.Have, total+max(0, l.Total)
		if l.Phase == oci.Done {
			done++
		}
	}
	fmt.Fprintf(p.out, "layers: %d of %d done, %s of %s", done, len(p.layers), units.HumanSize(float64(have)), units.HumanSize(float64(total)))
	p.shown = true
}
