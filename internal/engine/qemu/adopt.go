package qemu

import (
	"context"
	"errors"
	"fmt"

	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Adopt takes over a QEMU that an earlier process of ours launched. It uses of spec the ID, the architecture and the directories only.
func (e *Engine) Adopt(ctx context.Context, spec sandbox.MachineSpec, rec sandbox.MachineRecord) (sandbox.Machine, error) {
	if rec.Engine != engineName {
		return nil, fmt.Errorf("adopt a microVM: its record is of the engine %q", rec.Engine)
	}
	files := runtimeFilesIn(spec.RuntimeDir)
	return vmm.Adopt(rec, files.remove, func(proc *process.Process) (sandbox.Machine, error) {
		logs, err := vmmlog.OpenLogs(spec.LogDir, false)
		if err != nil {
			return nil, err
		}
		m, err := e.attachAgain(ctx, proc, rec, spec, logs, files)
		if err != nil {
			logs.Close()
			return nil, err
		}
		return m, nil
	})
}

func (e *Engine) attachAgain(ctx context.Context, proc *process.Process, rec sandbox.MachineRecord, spec sandbox.MachineSpec, logs vmmlog.Logs, files runtimeFiles) (*machine, error) {
	var s streams
	output, err := vmmlog.OpenPipe(files.output)
	if err != nil {
		return nil, err
	}
	s.output = output
	if err := s.connect(ctx, files); err != nil {
		s.close()
		return nil, err
	}
	return e.attach(proc, rec, spec, logs, s)
}

// Sweep kills QEMUs of the sandbox that no record tells of, and removes what they leave.
func (e *Engine) Sweep(ctx context.Context, spec sandbox.MachineSpec) error {
	nothing := func() error { return nil }
	return errors.Join(
		vmm.Sweep(ctx, e.log, name, marker(finishing(spec.ID)), nothing),
		vmm.Sweep(ctx, e.log, name, marker(spec.ID), runtimeFilesIn(spec.RuntimeDir).remove),
	)
}
