package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/pkg/client"
)

// maxPause is the budget of how long a guest stands still for a snapshot, in milliseconds.
const maxPause = 100

// Snapshot takes snapshots of one running sandbox, starts a sandbox from each, and suspends and resumes it.
func Snapshot(ctx context.Context, e *Env) (s Section, err error) {
	s = Section{Name: "snapshot", Title: "Snapshots"}
	sb, remove, err := e.started(ctx, client.StartOptions{})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	s.Setup = fmt.Sprintf("%s; %d times", e.setup(sb), e.N)
	var t Table
	const pause = "the guest stands still for a snapshot"
	for i := range e.N {
		began := time.Now()
		taken, err := e.Client.CreateSnapshot(ctx, sb.Name, "")
		if err != nil {
			return s, err
		}
		t.Add("snapshot create", time.Since(began))
		t.Add(pause, time.Duration(taken.PausedMs*float64(time.Millisecond)))
		from := *e
		from.Request = client.CreateRequest{FromSnapshot: &taken.Id}
		_, err = from.firstExec(ctx, &t, snapshot())
		if err = errors.Join(err, e.Client.RemoveSnapshot(context.WithoutCancel(ctx), taken.Id)); err != nil {
			return s, err
		}
		began = time.Now()
		if _, err := e.Client.Suspend(ctx, sb.Name); err != nil {
			return s, err
		}
		t.Add("suspend", time.Since(began))
		began = time.Now()
		if _, err := e.Client.Resume(ctx, sb.Name, 0); err != nil {
			return s, err
		}
		if err := e.execTrue(ctx, sb.Name); err != nil {
			return s, err
		}
		t.Add("resume to first exec done", time.Since(began))
		e.Progress(i+1, e.N)
	}
	s.Times = t.Summaries()
	s.Budget("the guest stands still for a snapshot, p50", t.Median(pause).Seconds()*1000, "ms", maxPause)
	return s, nil
}
