package vmm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// KillTimeout is how long a VMM that was sent SIGKILL may take to be gone; it may be in a write to a slow disk.
const KillTimeout = 30 * time.Second

// Adopt opens the process of a record and has attach take it over. When it is gone, remove deletes what it left, and the error is
// sandbox.ErrGone. After an error of attach the process runs on, unless it has just ended.
func Adopt(rec sandbox.MachineRecord, remove func() error, attach func(*process.Process) (sandbox.Machine, error)) (sandbox.Machine, error) {
	proc, err := process.Open(process.Identity{PID: rec.PID, StartTime: rec.StartTime, BootID: rec.BootID})
	if errors.Is(err, process.ErrGone) {
		if err := remove(); err != nil {
			return nil, fmt.Errorf("remove what a VMM that is gone has left: %w", err)
		}
		return nil, sandbox.ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("adopt a microVM: %w", err)
	}
	m, err := attach(proc)
	if err != nil {
		select {
		case <-proc.Done(): // it ended just now
			return nil, errors.Join(sandbox.ErrGone, remove())
		default:
		}
		proc.Release()
		return nil, fmt.Errorf("adopt a microVM: %w", err)
	}
	return m, nil
}

// Sweep kills VMMs that no record tells of, by the marker among their arguments, and has remove delete what they left. They run as our
// user, or as one of uids.
func Sweep(ctx context.Context, log *slog.Logger, name, marker string, remove func() error, uids ...int) error {
	ids, err := process.FindByArg(marker, uids...)
	if err != nil {
		return fmt.Errorf("look for a %s without a record: %w", name, err)
	}
	for _, id := range ids {
		proc, err := process.Open(id)
		if errors.Is(err, process.ErrGone) {
			continue
		}
		if err == nil {
			log.Warn("killing a VMM without a record", "vmm", name, "marker", marker, "pid", id.PID)
			if err = KillAndWait(ctx, name, proc); err != nil {
				proc.Release()
			}
		}
		if err != nil {
			return fmt.Errorf("kill a %s without a record: %w", name, err)
		}
	}
	if err := remove(); err != nil {
		return fmt.Errorf("remove what a %s without a record has left: %w", name, err)
	}
	return nil
}

// KillAndWait ends a process that nothing else watches.
func KillAndWait(ctx context.Context, name string, proc *process.Process) error {
	if err := proc.Kill(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), KillTimeout)
	defer cancel()
	select {
	case <-proc.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the %s with pid %d was killed and is not gone after %v", name, proc.Identity().PID, KillTimeout)
	}
}
