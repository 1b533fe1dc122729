package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// forkMany is how many copies are made at once, beside one.
const forkMany = 5

// Fork makes running copies of a running sandbox, one and then several, and runs a command in each.
func Fork(ctx context.Context, e *Env) (s Section, err error) {
	s = Section{Name: "fork", Title: "A fork"}
	sb, remove, err := e.started(ctx, client.StartOptions{})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := e.execTrue(ctx, sb.Name); err != nil {
		return s, err
	}
	s.Setup = fmt.Sprintf("%s; %d times", e.setup(sb), e.N)
	var t Table
	for i := range e.N {
		for _, count := range []int{1, forkMany} {
			if err := e.fork(ctx, &t, sb.Name, count); err != nil {
				return s, err
			}
		}
		e.Progress(i+1, e.N)
	}
	s.Times = t.Summaries()
	return s, nil
}

// fork makes copies, uses each and removes them.
func (e *Env) fork(ctx context.Context, t *Table, name string, count int) (err error) {
	began := time.Now()
	copies, err := e.Client.Fork(ctx, name, client.ForkOptions{Count: count})
	if err != nil {
		return err
	}
	t.Add(fmt.Sprintf("fork -n %d, until all run", count), time.Since(began))
	defer func() {
		for _, c := range copies {
			err = errors.Join(err, e.Client.Remove(context.WithoutCancel(ctx), c.Name, true))
		}
	}()
	for _, c := range copies {
		began := time.Now()
		if err := e.execTrue(ctx, c.Name); err != nil {
			return err
		}
		t.Add("first exec in a copy", time.Since(began))
	}
	return nil
}
