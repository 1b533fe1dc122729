package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// The budgets: what an exec takes, as a part of what docker exec does, and how much longer the slowest of so many at once takes than one
// alone.
const (
	maxExecToDocker = 0.2
	maxAtOnce       = 10
	atOnceOfBudget  = 50
)

// Exec runs true in one running sandbox, through the API and through the command line, and in a container of each rival, in
// turns, so that all meet the same noise. With Parallel above 0 it then runs so many at once as well.
func Exec(ctx context.Context, e *Env) (s Section, err error) {
	s = Section{Name: "exec", Title: "An exec"}
	sb, remove, err := e.started(ctx, client.StartOptions{})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	s.Setup = fmt.Sprintf("%s; true, %d times in turns", e.setup(sb), e.N)
	const api, cli = "exec through the API", "agentkernel exec"
	var t Table
	for i := -1; i < e.N; i++ { // the first round is not counted: emulation translates code when it first runs
		if i == 0 {
			t = Table{}
		}
		began := time.Now()
		if err := e.execTrue(ctx, sb.Name); err != nil {
			return s, err
		}
		t.Add(api, time.Since(began))
		took, err := timeCommand(ctx, e.Self, "exec", sb.Name, "true")
		if err != nil {
			return s, err
		}
		t.Add(cli, took)
		for _, rival := range e.Rivals {
			if took, err = rival.Exec(ctx); err != nil {
				return s, err
			}
			t.Add(rival.Name()+" exec", took)
		}
		e.Progress(i+1, e.N)
	}
	for _, rival := range e.Rivals {
		row := cli + " / " + rival.Name() + " exec"
		if ratio, ok := t.Over(cli, rival.Name()+" exec"); ok && rival.Name() == "docker" {
			s.Budget(row, ratio, Ratio, maxExecToDocker)
		} else if ok {
			s.Add(row, ratio, Ratio)
		}
	}
	if e.Parallel > 0 {
		if err := e.execsAtOnce(ctx, &s, &t, sb.Name, api, cli); err != nil {
			return s, err
		}
	}
	s.Times = t.Summaries()
	return s, nil
}

// execsAtOnce runs true N times, in rounds of so many at once: through the API, with a process of the command line each, and with one
// of each rival's. api and cli name the rows of one at a time.
func (e *Env) execsAtOnce(ctx context.Context, s *Section, t *Table, name, api, cli string) error {
	type way struct {
		row string // of one at a time
		run func() (time.Duration, error)
	}
	ways := []way{{api, func() (time.Duration, error) {
		began := time.Now()
		err := e.execTrue(ctx, name)
		return time.Since(began), err
	}}, {cli, func() (time.Duration, error) { return timeCommand(ctx, e.Self, "exec", name, "true") }}}
	for _, rival := range e.Rivals {
		ways = append(ways, way{rival.Name() + " exec", func() (time.Duration, error) { return rival.Exec(ctx) }})
	}
	for _, w := range ways {
		row := fmt.Sprintf("%d at once, %s", e.Parallel, w.row)
		if err := e.atOnce(row, t, w.run); err != nil {
			return err
		}
		name, ratio := fmt.Sprintf("p99 of %d at once / p50 of one, %s", e.Parallel, w.row), float64(t.Quantile(row, 0.99))/float64(t.Median(w.row))
		if w.row == cli && e.Parallel == atOnceOfBudget {
			s.Budget(name, ratio, Ratio, maxAtOnce)
		} else {
			s.Add(name, ratio, Ratio)
		}
	}
	return nil
}

// atOnce adds N times to a row, of rounds of Parallel runs at once.
func (e *Env) atOnce(row string, t *Table, run func() (time.Duration, error)) error {
	type outcome struct {
		took time.Duration
		err  error
	}
	for done := 0; done < e.N; done += e.Parallel {
		outcomes := make(chan outcome, e.Parallel)
		for range e.Parallel {
			go func() {
				took, err := run()
				outcomes <- outcome{took, err}
			}()
		}
		var failed error
		for range e.Parallel {
			o := <-outcomes
			failed = errors.Join(failed, o.err)
			t.Add(row, o.took)
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}
