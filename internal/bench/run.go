package bench

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Run times the command line's run of true, from the making of a sandbox to its removal, and what the rivals have for it, in
// turns.
func Run(ctx context.Context, e *Env) (Section, error) {
	s := Section{Name: "run", Title: "A run: a sandbox made, used once and removed"}
	s.Setup = fmt.Sprintf("image %s, %d MiB; true, %d times in turns", deref(e.Request.Image), deref(e.Request.MemoryMib), e.N)
	var t Table
	for i := -1; i < e.N; i++ { // the first round is not counted: it makes what is made once
		if i == 0 {
			t = Table{}
		}
		if err := e.runAll(ctx, &t); err != nil {
			return s, err
		}
		e.Progress(i+1, e.N)
	}
	s.Times = t.Summaries()
	for _, way := range e.runs() {
		for _, rival := range e.Rivals {
			if ratio, ok := t.Over(way.name, runName(rival)); ok {
				s.Add(way.name+" / "+runName(rival), ratio, Ratio)
			}
		}
	}
	return s, nil
}

// way is one way to run a command in a new sandbox.
type way struct {
	name string
	args []string // of run
}

func (e *Env) runs() []way {
	return []way{{name: "agentkernel run, cold"}}
}

func runName(r Rival) string {
	if r.Name() == "docker" {
		return "docker run --rm"
	}
	return r.Name() + " do"
}

// runAll runs true once in each way.
func (e *Env) runAll(ctx context.Context, t *Table) error {
	timed := func(name string, f func() (time.Duration, error)) error {
		took, err := f()
		if err != nil {
			return err
		}
		t.Add(name, took)
		return nil
	}
	for _, way := range e.runs() {
		args := append([]string{"run", "--image", deref(e.Request.Image), "--memory", strconv.Itoa(deref(e.Request.MemoryMib))}, way.args...)
		if e.Request.Engine != nil {
			args = append(args, "--engine", string(*e.Request.Engine))
		}
		args = append(args, "--", "true")
		if err := timed(way.name, func() (time.Duration, error) { return timeCommand(ctx, e.Self, args...) }); err != nil {
			return err
		}
	}
	for _, rival := range e.Rivals {
		if err := timed(runName(rival), func() (time.Duration, error) { return rival.Run(ctx) }); err != nil {
			return err
		}
	}
	return nil
}
