package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/bench/census"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// maxToCold is the budget of a start from a template, as a part of a cold boot's.
const maxToCold = 0.4

// origin is where a start goes on from.
type origin struct {
	name string // in rows
	from apiv1.HygieneFrom
	o    client.StartOptions
}

func cold() origin {
	return origin{"cold", apiv1.HygieneFromBoot, client.StartOptions{Cold: true}}
}
func template() origin { return origin{name: "from a template", from: apiv1.HygieneFromTemplate} }
func pool() origin     { return origin{name: "from the pool", from: apiv1.HygieneFromPool} }
func snapshot() origin { return origin{name: "from a snapshot", from: apiv1.HygieneFromSnapshot} }

// Start times cold boots, starts from a template and, where there is one, from the pool, in turns: from the create to the end of the
// first command. What the pool has is of the default size, and the others are of the size that was asked for.
func Start(ctx context.Context, e *Env) (Section, error) {
	s := Section{Name: "start", Title: "A start"}
	pooled, err := e.awaitPool(ctx)
	if err != nil {
		return s, err
	}
	var t Table
	for i := -1; i < e.N; i++ { // the first round is not counted: it makes the template
		if i == 0 {
			t = Table{}
		}
		sb, err := e.firstExec(ctx, &t, template())
		if err == nil {
			_, err = e.firstExec(ctx, &t, cold())
		}
		if err == nil && pooled {
			if _, err = e.awaitPool(ctx); err == nil {
				_, err = e.ofPool().firstExec(ctx, &t, pool())
			}
			if err == nil { // what it makes in the place of the one that is gone would disturb the next
				_, err = e.awaitPool(ctx)
			}
		}
		if err != nil {
			return s, err
		}
		s.Setup = fmt.Sprintf("%s; %d times in turns", e.setup(sb), e.N)
		e.Progress(i+1, e.N)
	}
	s.Times = t.Summaries()
	if ratio, ok := t.Over(cpuTime(template()), cpuTime(cold())); ok {
		s.Add("CPU time of the VMM, from a template / cold", ratio, Ratio)
	}
	if ratio, ok := t.Over(toFirstExec(template()), toFirstExec(cold())); ok {
		s.Budget("a start from a template / cold, to first exec done", ratio, Ratio, maxToCold)
	}
	if ratio, ok := t.Over(toFirstExec(pool()), toFirstExec(cold())); ok {
		s.Add("a start from the pool / cold, to first exec done", ratio, Ratio)
	}
	return s, nil
}

// The rows of an origin.
func toFirstExec(w origin) string { return w.name + ": create to first exec done" }
func cpuTime(w origin) string     { return w.name + ": CPU time of the VMM until then" }

// firstExec makes a sandbox, starts it, runs true in it and removes it. Its row is of all but the removal.
func (e *Env) firstExec(ctx context.Context, t *Table, w origin) (sb client.Sandbox, err error) {
	began := time.Now()
	sb, remove, err := e.started(ctx, w.o)
	if err != nil {
		return sb, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := errors.Join(w.check(sb), e.execTrue(ctx, sb.Name)); err != nil {
		return sb, err
	}
	t.Add(toFirstExec(w), time.Since(began))
	if a, err := census.ActivityOf(deref(sb.Pid)); err == nil && w.from != apiv1.HygieneFromPool { // else it has had more to do
		t.Add(cpuTime(w), a.CPU)
	}
	if sb.Stages != nil {
		for _, stage := range *sb.Stages {
			t.Add(w.name+": "+stage.Name, time.Duration(stage.DurationMs*float64(time.Millisecond)))
		}
	}
	return sb, nil
}

// check returns an error for a sandbox that did not start as it was to: the daemon boots one whose template cannot be restored.
func (w origin) check(sb client.Sandbox) error {
	from := apiv1.HygieneFromBoot
	if sb.Hygiene != nil {
		from = sb.Hygiene.From
	}
	if from != w.from {
		return fmt.Errorf("sandbox %s was started from %s, and %s is what is measured (the daemon's log may say why)", sb.Name, from, w.from)
	}
	return nil
}
