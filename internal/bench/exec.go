package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// Exec runs true in one running sandbox, through the API and through the command line, and in a container of each rival, in
// turns, so that all meet the same noise. With Parallel above 0 it then runs so many at once, until there have been N.
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
		if ratio, ok := t.Over(cli, rival.Name()+" exec"); ok {
			s.Add(cli+" / "+rival.Name()+" exec", ratio, Ratio)
		}
	}
	if e.Parallel > 0 {
		row := fmt.Sprintf("%d execs at once, each", e.Parallel)
		if err := e.execAtOnce(ctx, sb.Name, row, &t); err != nil {
			return s, err
		}
		s.Add(fmt.Sprintf("p99 of %d at once / p50 of one, through the API", e.Parallel),
			float64(t.Quantile(row, 0.99))/float64(t.Median(api)), Ratio)
	}
	s.Times = t.Summaries()
	return s, nil
}

// execAtOnce runs true N times, in rounds of so many at once.
func (e *Env) execAtOnce(ctx context.Context, name, row string, t *Table) error {
	type outcome struct {
		took time.Duration
		err  error
	}
	for done := 0; done < e.N; done += e.Parallel {
		outcomes := make(chan outcome, e.Parallel)
		for range e.Parallel {
			go func() {
				began := time.Now()
				err := e.execTrue(ctx, name)
				outcomes <- outcome{time.Since(began), err}
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
