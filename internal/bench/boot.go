package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// BootResult is the outcome of Boot.
type BootResult struct {
	Engine      string    `json:"engine"`
	Accelerator string    `json:"accelerator"`
	Kernel      string    `json:"kernel"`
	Stages      []Summary `json:"stages"`
	// Instructions is the number of guest instructions from the VMM's start to readiness; 0 where they cannot be counted.
	Instructions int64 `json:"guest_instructions,omitempty"`
}

// Boot makes, boots, uses, stops and removes n sandboxes, one after the other, and times the stages of each. On software
// emulation one more boot counts the guest's instructions, which do not depend on the host's speed.
func Boot(ctx context.Context, c *client.Client, n int, req client.CreateRequest, progress func(done, of int)) (BootResult, error) {
	var r BootResult
	var t Table
	for i := range n {
		sb, err := bootOnce(ctx, c, req, &t, false)
		if err != nil {
			return r, err
		}
		r.Engine, r.Accelerator, r.Kernel = deref(sb.Engine), deref(sb.Accelerator), deref(sb.Kernel)
		progress(i+1, n)
	}
	r.Stages = t.Summaries()
	if r.Accelerator == "tcg" {
		sb, err := bootOnce(ctx, c, req, &Table{}, true)
		if err != nil {
			return r, fmt.Errorf("count the guest's instructions: %w", err)
		}
		r.Instructions = deref(sb.GuestInstructions)
	}
	return r, nil
}

func bootOnce(ctx context.Context, c *client.Client, req client.CreateRequest, t *Table, count bool) (sb client.Sandbox, err error) {
	timed := func(name string, f func() error) error {
		began := time.Now()
		err := f()
		t.Add(name, time.Since(began))
		return err
	}
	if err := timed("create", func() error { _, err := c.Create(ctx, req); return err }); err != nil {
		return sb, err
	}
	defer func() {
		rmErr := timed("remove", func() error { return c.Remove(context.WithoutCancel(ctx), req.Name, true) })
		if err == nil {
			err = rmErr
		}
	}()
	began := time.Now()
	if sb, err = c.Start(ctx, req.Name, client.StartOptions{CountInstructions: count}); err != nil {
		return sb, err
	}
	ready := time.Since(began)
	if sb.Stages != nil {
		for _, s := range *sb.Stages {
			t.Add("start: "+s.Name, time.Duration(s.DurationMs*float64(time.Millisecond)))
		}
	}
	t.Add("start, in all", ready)
	for _, name := range []string{"first exec", "second exec"} {
		if err := timed(name, func() error { return execTrue(ctx, c, req.Name) }); err != nil {
			return sb, err
		}
	}
	return sb, timed("stop", func() error { _, err := c.Stop(ctx, req.Name, 10*time.Second); return err })
}

func execTrue(ctx context.Context, c *client.Client, name string) error {
	exit, err := c.Exec(ctx, name, client.ExecStart{Argv: []string{"true"}}, client.ExecIO{})
	if err == nil && exit.Status() != 0 {
		err = fmt.Errorf("true ended with exit code %d", exit.Status())
	}
	return err
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
