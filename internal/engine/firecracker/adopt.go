package firecracker

import (
	"context"
	"fmt"
	"os"

	"github.com/agentkernel/agentkernel/internal/engine/confine"
	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Adopt takes over a Firecracker that an earlier process of ours launched. It uses of spec the ID and the directories only, and
// asks Firecracker nothing.
func (e *Engine) Adopt(_ context.Context, spec sandbox.MachineSpec, rec sandbox.MachineRecord) (sandbox.Machine, error) {
	if rec.Engine != engineName {
		return nil, fmt.Errorf("adopt a microVM: its record is of the engine %q", rec.Engine)
	}
	files := runtimeFilesOf(spec)
	return vmm.Adopt(rec, files.remove, func(proc *process.Process) (sandbox.Machine, error) {
		s, err := files.openStreams()
		if err != nil {
			return nil, err
		}
		logs, err := vmmlog.OpenLogs(spec.LogDir, false)
		if err != nil {
			s.close()
			return nil, err
		}
		m, err := e.attach(proc, rec, spec, logs, s, true)
		if err != nil {
			return nil, err // not a typed nil
		}
		return m, nil
	})
}

// Sweep kills Firecrackers of the sandbox that no record tells of, and removes what they leave.
func (e *Engine) Sweep(ctx context.Context, spec sandbox.MachineSpec) error {
	var uids []int
	if uid, _, err := confine.Owner(spec.ID); err == nil && os.Geteuid() == 0 {
		uids = append(uids, uid)
	}
	return vmm.Sweep(ctx, e.log, name, marker(spec.ID), runtimeFilesOf(spec).remove, uids...)
}
