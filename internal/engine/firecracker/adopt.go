package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/agentkernel/agentkernel/internal/engine/confine"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// killTimeout is how long a Firecracker that was sent SIGKILL may take to be gone; it may be in a write to a slow disk.
const killTimeout = 30 * time.Second

// Adopt takes over a Firecracker that an earlier process of ours launched. It uses of spec the ID and the directories only, and
// asks Firecracker nothing.
func (e *Engine) Adopt(_ context.Context, spec sandbox.MachineSpec, rec sandbox.MachineRecord) (sandbox.Machine, error) {
	if rec.Engine != engineName {
		return nil, fmt.Errorf("adopt a microVM: its record is of the engine %q", rec.Engine)
	}
	files := runtimeFilesOf(spec)
	proc, err := process.Open(process.Identity{PID: rec.PID, StartTime: rec.StartTime, BootID: rec.BootID})
	if errors.Is(err, process.ErrGone) {
		if err := files.remove(); err != nil {
			return nil, fmt.Errorf("remove the files of a VMM that is gone: %w", err)
		}
		return nil, sandbox.ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("adopt a microVM: %w", err)
	}
	m, err := e.readopt(proc, rec, spec, files)
	if err != nil {
		select {
		case <-proc.Done(): // it ended just now
			return nil, errors.Join(sandbox.ErrGone, files.remove())
		default:
		}
		proc.Release()
		return nil, fmt.Errorf("adopt a microVM: %w", err)
	}
	return m, nil
}

func (e *Engine) readopt(proc *process.Process, rec sandbox.MachineRecord, spec sandbox.MachineSpec, files runtimeFiles) (*machine, error) {
	s, err := files.openStreams()
	if err != nil {
		return nil, err
	}
	logs, err := openLogs(spec.LogDir, false)
	if err != nil {
		s.close()
		return nil, err
	}
	return e.attach(proc, rec, spec, logs, s, true)
}

// Sweep kills Firecrackers of the sandbox that no record tells of, and removes what they leave.
func (e *Engine) Sweep(ctx context.Context, spec sandbox.MachineSpec) error {
	var uids []int
	if uid, _, err := confine.Owner(spec.ID); err == nil && os.Geteuid() == 0 {
		uids = append(uids, uid)
	}
	ids, err := process.FindByArg(marker(spec.ID), uids...)
	if err != nil {
		return fmt.Errorf("look for a Firecracker without a record: %w", err)
	}
	for _, id := range ids {
		proc, err := process.Open(id)
		if errors.Is(err, process.ErrGone) {
			continue
		}
		if err == nil {
			e.log.Warn("killing a Firecracker without a record", "sandbox", spec.ID, "pid", id.PID)
			if err = killAndWait(ctx, proc); err != nil {
				proc.Release()
			}
		}
		if err != nil {
			return fmt.Errorf("kill a Firecracker without a record: %w", err)
		}
	}
	if err := runtimeFilesOf(spec).remove(); err != nil {
		return fmt.Errorf("remove the files of a Firecracker without a record: %w", err)
	}
	return nil
}

func killAndWait(ctx context.Context, proc *process.Process) error {
	if err := proc.Kill(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	select {
	case <-proc.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the Firecracker with pid %d was killed and is not gone after %v", proc.Identity().PID, killTimeout)
	}
}
