package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// Boot makes, boots, uses, stops and removes sandboxes, one after the other, and times the stages of each. On software emulation
// one more boot counts the guest's instructions, which do not depend on the host's speed.
func Boot(ctx context.Context, e *Env) (Section, error) {
	s := Section{Name: "boot", Title: "A cold boot"}
	var t Table
	var sb client.Sandbox
	for i := range e.N {
		var err error
		if sb, err = e.boot(ctx, &t, client.StartOptions{Cold: true}); err != nil {
			return s, err
		}
		e.Progress(i+1, e.N)
	}
	s.Setup, s.Times = fmt.Sprintf("%s; %d times", e.setup(sb), e.N), t.Summaries()
	if deref(sb.Accelerator) == "tcg" {
		counted, err := e.boot(ctx, &Table{}, client.StartOptions{CountInstructions: true})
		if err != nil {
			return s, fmt.Errorf("count the guest's instructions: %w", err)
		}
		s.Add("guest instructions from the VMM's start to ready", float64(deref(counted.GuestInstructions))/1e6, "M")
	}
	return s, nil
}

// boot is one life of a sandbox.
func (e *Env) boot(ctx context.Context, t *Table, o client.StartOptions) (sb client.Sandbox, err error) {
	timed := func(name string, f func() error) error {
		began := time.Now()
		err := f()
		t.Add(name, time.Since(began))
		return err
	}
	began := time.Now()
	made, remove, err := e.create(ctx)
	if err != nil {
		return sb, err
	}
	t.Add("create (record, own disk)", time.Since(began))
	defer func() { err = errors.Join(err, timed("remove", remove)) }()
	start := time.Now()
	if sb, err = e.Client.Start(ctx, made.Name, o); err != nil {
		return sb, err
	}
	ready := time.Since(start)
	if sb.Stages != nil {
		for _, stage := range *sb.Stages {
			t.Add("start: "+stage.Name, time.Duration(stage.DurationMs*float64(time.Millisecond)))
		}
	}
	t.Add("start, in all", ready)
	for _, name := range []string{"first exec of true", "second exec of true"} {
		if err := timed(name, func() error { return e.execTrue(ctx, made.Name) }); err != nil {
			return sb, err
		}
	}
	return sb, timed("stop, graceful", func() error { _, err := e.Client.Stop(ctx, made.Name, 10*time.Second); return err })
}
