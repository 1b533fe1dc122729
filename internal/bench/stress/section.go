package stress

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/bench"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// The budgets of a run from a template: of the wall of so many sandboxes, in seconds, and of the wall as a part of what as many
// docker runs take, as many at once.
const (
	wallCount, maxWall = 100, 25
	maxToDocker        = 0.6
)

// Bench is a run as a section of a benchmark, with Env.N sandboxes, Env.Parallel at once, and as many containers of each rival, as
// many at once: one half of them before and one after, so that a host that gets slower or faster does so for both.
//
// They go on from templates, or boot when it is cold.
func Bench(ctx context.Context, e *bench.Env, cold bool, sandboxes, runtime string) (bench.Section, error) {
	walls := make([]float64, len(e.Rivals))
	rivals := func(count int) error {
		for i, rival := range e.Rivals {
			wall, err := containers(ctx, rival, count, e.Parallel)
			if err != nil {
				return err
			}
			walls[i] += wall
		}
		return nil
	}
	if err := rivals(e.N / 2); err != nil {
		return bench.Section{}, err
	}
	r, err := Run(ctx, e.Client, Options{
		Count: e.N, Parallel: e.Parallel, Request: e.Request, Start: client.StartOptions{Cold: cold}, Sandboxes: sandboxes, Runtime: runtime, Progress: e.Progress,
	})
	if err != nil {
		return bench.Section{}, err
	}
	if r.Interrupted {
		return bench.Section{}, context.Cause(ctx)
	}
	if err := rivals(e.N - e.N/2); err != nil {
		return bench.Section{}, err
	}
	s := r.section()
	for i, rival := range e.Rivals {
		name := fmt.Sprintf("%d runs of %s, %d at once: wall", r.Count, rival.Name(), r.Parallel)
		s.Add(name, walls[i], "s")
		if ratio := r.WallSeconds / walls[i]; cold || rival.Name() != "docker" {
			s.Add("stress / "+name, ratio, bench.Ratio)
		} else {
			s.Budget("stress / "+name, ratio, bench.Ratio, maxToDocker)
		}
	}
	return s, nil
}

// section is the report of a run, as others print and draw it.
func (r Report) section() bench.Section {
	s := bench.Section{Name: "stress", Title: "Many sandboxes, from a template", Times: r.Steps}
	if r.Cold {
		s.Name, s.Title = "stress-cold", "Many sandboxes, cold"
	}
	s.Setup = fmt.Sprintf("%d sandboxes of %s, %d MiB, %d at once, engine %s (%s), kernel %s: boot, a command whose answer is checked, graceful shutdown, removal",
		r.Count, r.Image, r.MemoryMiB, r.Parallel, r.Engine, r.Accelerator, r.Kernel)
	if r.Cold || r.Count != wallCount {
		s.Add("wall", r.WallSeconds, "s")
	} else {
		s.Budget(fmt.Sprintf("stress, %d from a template: wall", r.Count), r.WallSeconds, "s", maxWall)
	}
	if n := r.From[string(apiv1.HygieneFromBoot)]; !r.Cold && n > 0 {
		s.Note("%d of them have booted, since their template could not be restored", n)
	}
	s.Budget(fmt.Sprintf("%s: failures", s.Name), float64(r.Failed), bench.Count, 0)
	s.Budget(s.Name+": processes, files, sockets and descriptors left over", float64(len(r.Left)), bench.Count, 0)
	const mebi = 1 << 20
	if m := r.Memory; m.VMMMax > 0 {
		s.Add("memory of a VMM after its command (PSS), median", float64(m.VMMMedian)/mebi, "MiB")
	}
	if m := r.Memory; m.Samples > 0 {
		s.Add(fmt.Sprintf("memory of %d VMMs and the daemon at the peak (PSS)", m.PeakVMMs), float64(m.Peak)/mebi, "MiB")
	}
	for _, f := range r.Failures {
		s.Note("%s: %s: %s", f.Sandbox, f.Step, f.Error)
	}
	for _, left := range r.Left {
		s.Note("left over: %s", left)
	}
	for _, what := range r.Unchecked {
		s.Note("not checked: %s", what)
	}
	return s
}

// containers runs so many containers, so many at once, and returns how many seconds that took.
func containers(ctx context.Context, rival bench.Rival, count, parallel int) (float64, error) {
	if _, err := rival.Run(ctx); err != nil { // as there is a first sandbox
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	jobs := make(chan struct{})
	var workers sync.WaitGroup
	began := time.Now()
	for range parallel {
		workers.Go(func() {
			for range jobs {
				if _, err := rival.Run(ctx); err != nil {
					cancel(err)
				}
			}
		})
	}
	for range count {
		select {
		case jobs <- struct{}{}:
		case <-ctx.Done():
		}
	}
	close(jobs)
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, errors.Join(fmt.Errorf("run %d containers", count), err)
	}
	return time.Since(began).Seconds(), nil
}
