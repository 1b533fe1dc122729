package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/unixsock"
)

// Launch starts a QEMU for spec. It returns when QEMU answers on its monitor, which is when it has taken its memory, its
// disks and the kernel; the guest boots meanwhile. What QEMU says when it cannot is in the error.
func (e *Engine) Launch(ctx context.Context, spec sandbox.MachineSpec) (sandbox.Machine, error) {
	cmd, err := e.prepare(ctx, spec)
	if err != nil {
		return nil, err
	}
	m, err := e.launch(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (e *Engine) launch(ctx context.Context, cmd *command) (m *machine, err error) {
	spec := cmd.spec
	files := runtimeFilesIn(spec.RuntimeDir)
	logs, err := vmmlog.OpenLogs(spec.LogDir, true)
	if err != nil {
		return nil, err
	}
	defer func() {
		if m == nil {
			logs.Close()
			err = errors.Join(err, files.remove())
		}
	}()
	disks, err := sandbox.DiskSlots(cmd.slots)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	var more []*os.File
	if cmd.use == restores {
		feed, state, err := openState(cmd)
		if err != nil {
			return nil, err
		}
		defer feed.end()
		defer state.Close() // first: nobody reads any more when QEMU is gone
		more = append(more, state)
	}
	proc, streams, err := spawn(ctx, cmd, files, more...)
	if err != nil {
		return nil, err
	}
	forked := time.Now()
	id := proc.Identity()
	rec := sandbox.MachineRecord{
		Engine: engineName, EngineWhy: spec.EngineWhy, Accelerator: cmd.accel, PID: id.PID, StartTime: id.StartTime, BootID: id.BootID, LinkToken: cmd.token,
		Disks: disks,
	}
	m, err = e.attach(proc, rec, spec, logs, streams)
	if err != nil {
		m = nil
		return nil, errors.Join(err, vmm.KillAndWait(ctx, name, proc))
	}
	if err := m.started(ctx); err != nil {
		return m, errors.Join(err, m.Kill(context.WithoutCancel(ctx)))
	}
	ready := time.Now()
	m.Parts = []sandbox.Stage{{Name: "fork", Duration: forked.Sub(begin)}, {Name: "vmm-init", Duration: ready.Sub(forked)}}
	if cmd.use == restores {
		m.disks = restoredDisks(cmd.slots, disks, spec.From.Disks)
		if err := m.restore(ctx, cmd); err != nil {
			return m, err
		}
		m.Parts = append(m.Parts, sandbox.Stage{Name: "restore", Duration: time.Since(ready)})
	}
	e.log.Debug("launched", "sandbox", spec.ID, "pid", id.PID, "accelerator", cmd.accel)
	return m, nil
}

// spawn starts QEMU, with its monitor and console connected.
// More is its further descriptors, which stay the caller's.
func spawn(ctx context.Context, cmd *command, files runtimeFiles, more ...*os.File) (proc *process.Process, s streams, err error) {
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	ends, err := files.listen()
	if err != nil {
		return nil, s, err
	}
	// With these the sockets would outlive QEMU.
	defer closeAll(ends)
	theirs, ours, err := vmmlog.MakePipe(files.output)
	if err != nil {
		return nil, s, err
	}
	s.output = ours
	defer theirs.Close()
	if err = s.connect(ctx, files); err != nil {
		return nil, s, err
	}
	if cmd.use == restores {
		// QEMU finds the connection when it starts: the guest, which had one when it was saved, does not see the link break.
		if s.link, err = unixsock.Dial(ctx, files.link); err != nil {
			return nil, s, fmt.Errorf("connect to the link: %w", err)
		}
		s.begun = cmd.begun
	}
	proc, err = process.Start(process.Spec{
		Path: cmd.bin.path, Args: append([]string{cmd.bin.path}, cmd.args()...), Dir: cmd.spec.RuntimeDir,
		Env:    environment(),
		Output: theirs, Files: append(ends, more...),
	})
	return proc, s, err
}

func environment() []string { return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C"} }

// started waits until QEMU answers.
func (m *machine) started(ctx context.Context) error {
	select {
	case <-m.monitor.ready:
		return nil
	case <-m.monitor.done:
	case <-ctx.Done():
		return fmt.Errorf("wait for QEMU: %w", context.Cause(ctx))
	}
	// Its monitor is closed: either it ends, or it does not speak QMP.
	timeout, cancel := context.WithTimeout(ctx, vmm.KillTimeout)
	defer cancel()
	select {
	case <-m.Done():
	case <-timeout.Done():
		return fmt.Errorf("talk to QEMU: %w", m.monitor.err)
	}
	if m.Exit().Code == 0 {
		return nil // it ran, and the guest has ended already: Done and Exit say so
	}
	detail := m.Exit().Detail
	if detail == "" {
		detail = fmt.Sprintf("it ended with code %d %s", m.Exit().Code, m.Exit().Signal)
	}
	return sandbox.Errorf(sandbox.Failure, hintFor(detail), "start QEMU: %s", detail)
}
