package bench

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// The budgets of a run, as parts of what docker run --rm takes.
const (
	maxRunToDocker  = 0.8
	maxPoolToDocker = 0.15
)

// Run times the command line's run of true, from the making of a sandbox to its removal, and what the rivals have for it, in
// turns.
func Run(ctx context.Context, e *Env) (Section, error) {
	s := Section{Name: "run", Title: "A run: a sandbox made, used once and removed"}
	s.Setup = fmt.Sprintf("image %s, %d MiB (from the pool: %d MiB); true, %d times in turns", deref(e.Request.Image), deref(e.Request.MemoryMib), sandbox.DefaultMemoryMiB, e.N)
	pooled, err := e.awaitPool(ctx)
	if err != nil {
		return s, err
	}
	ways := e.runs(pooled)
	var t Table
	for i := -1; i < e.N; i++ { // the first round is not counted: it makes what is made once
		if i == 0 {
			t = Table{}
		}
		for _, w := range ways {
			if _, err := e.awaitPool(ctx); err != nil { // also before the others: they are not to be disturbed by its making
				return s, err
			}
			took, err := w.run(ctx)
			if err != nil {
				return s, err
			}
			t.Add(w.name, took)
		}
		e.Progress(i+1, e.N)
	}
	s.Times = t.Summaries()
	for _, w := range ways[:len(ways)-len(e.Rivals)] {
		for _, rival := range e.Rivals {
			name := w.name + " / " + runName(rival)
			if ratio, ok := t.Over(w.name, runName(rival)); ok && rival.Name() == "docker" && w.toDocker > 0 {
				s.Budget(name, ratio, Ratio, w.toDocker)
			} else if ok {
				s.Add(name, ratio, Ratio)
			}
		}
	}
	if !pooled {
		s.Unmeasured = append(s.Unmeasured, "agentkernel run, from the pool / docker run --rm: "+noPool)
	}
	return s, nil
}

// way is one way to run a command apart from the host.
type way struct {
	name string
	run  func(context.Context) (time.Duration, error)
	// toDocker is the budget, as a part of what docker run --rm takes; 0: none.
	toDocker float64
}

// runs are all ways, the rivals' last.
func (e *Env) runs(pooled bool) []way {
	cli := func(memoryMiB int, args ...string) func(context.Context) (time.Duration, error) {
		args = append([]string{"run", "--image", deref(e.Request.Image), "--memory", strconv.Itoa(memoryMiB)}, args...)
		args = append(args, "--", "true")
		return func(ctx context.Context) (time.Duration, error) { return timeCommand(ctx, e.Self, args...) }
	}
	var engine []string
	if e.Request.Engine != nil {
		engine = []string{"--engine", string(*e.Request.Engine)}
	}
	memory := deref(e.Request.MemoryMib)
	list := []way{{"agentkernel run, from a template", cli(memory, engine...), maxRunToDocker}}
	if pooled {
		list = append(list, way{"agentkernel run, from the pool", cli(sandbox.DefaultMemoryMiB), maxPoolToDocker})
	}
	list = append(list, way{"agentkernel run, cold", cli(memory, append(engine, "--cold")...), 0})
	for _, rival := range e.Rivals {
		list = append(list, way{runName(rival), rival.Run, 0})
	}
	return list
}

func runName(r Rival) string {
	if r.Name() == "docker" {
		return "docker run --rm"
	}
	return r.Name() + " do"
}
