package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/agentkernel/agentkernel/internal/engine/confine"
	"github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"
	"github.com/agentkernel/agentkernel/internal/engine/vmm"
	"github.com/agentkernel/agentkernel/internal/engine/vmmlog"
	"github.com/agentkernel/agentkernel/internal/process"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// marker is the one argument that tells the Firecracker of a sandbox from every other process. It is the value of --id, which
// takes letters, digits and hyphens.
func marker(id string) string { return "agentkernel-" + id }

// arguments returns what follows --id, which a jailer gives by itself. The paths are relative to the runtime directory, or to the
// root directory that has the same in it. Without a configuration Firecracker waits for a request, which is to restore a state.
func arguments(configured bool) []string {
	args := []string{"--api-sock", apiName, "--log-path", outputName, "--level", "Warning", "--show-level"}
	if configured {
		args = append(args, "--config-file", configName)
	}
	return args
}

// Launch starts a Firecracker for spec. It returns when Firecracker says that the guest was started, or goes on from a saved
// state; it boots meanwhile. What Firecracker says when it cannot is in the error.
func (e *Engine) Launch(ctx context.Context, spec sandbox.MachineSpec) (sandbox.Machine, error) {
	if err := check(spec, hostArch()); err != nil {
		return nil, fmt.Errorf("prepare a microVM: %w", err)
	}
	bin, _, err := e.usable(ctx, spec.Arch)
	if err != nil {
		return nil, err
	}
	if spec.Template && bin.version.Compare(minSaving) < 0 { // rather than after its boot
		return nil, unreliable(bin.version)
	}
	if spec.From != nil {
		if err := restorableBy(bin, *spec.From); err != nil {
			return nil, err
		}
		if err := checkMemory(spec); err != nil {
			return nil, fmt.Errorf("restore a microVM: %w", err)
		}
	}
	confined, err := e.confinement(ctx, bin)
	if err != nil {
		return nil, err
	}
	m, err := e.launch(ctx, bin, confined, spec)
	if err != nil {
		return nil, err // not a typed nil
	}
	return m, nil
}

func (e *Engine) launch(ctx context.Context, bin binary, confined confinement, spec sandbox.MachineSpec) (_ *machine, err error) {
	begin := time.Now()
	files := runtimeFilesOf(spec)
	defer func() {
		if err != nil {
			err = errors.Join(err, files.remove())
		}
	}()
	if err := files.remove(); err != nil { // Firecracker does not replace a socket
		return nil, fmt.Errorf("remove old files of the VMM: %w", err)
	}
	plan, err := planOf(spec, files.spare)
	if err != nil {
		return nil, fmt.Errorf("prepare a microVM: %w", err)
	}
	if err := files.write(plan); err != nil {
		return nil, err
	}
	if confined.kind == plain {
		if err := files.link(plan.resources); err != nil {
			return nil, err
		}
	}
	as, err := confined.owner(spec.ID)
	if err != nil {
		return nil, err
	}
	if err := files.handOver(as, plan); err != nil {
		return nil, err
	}
	cmd, err := confined.command(bin, spec, files, plan, as)
	if err != nil {
		return nil, err
	}
	appeared, err := watchDir(files.sockets)
	if err != nil {
		return nil, err
	}
	defer appeared.close()
	logs, err := vmmlog.OpenLogs(spec.LogDir, true)
	if err != nil {
		return nil, err
	}
	proc, streams, err := spawn(cmd, files, as)
	if err != nil {
		logs.Close()
		return nil, err
	}
	forked := time.Now()
	id := proc.Identity()
	rec := sandbox.MachineRecord{
		Engine: engineName, EngineWhy: spec.EngineWhy, Accelerator: accelKVM, PID: id.PID, StartTime: id.StartTime, BootID: id.BootID,
		Disks: plan.disks,
	}
	m, err := e.attach(proc, rec, spec, logs, streams, false)
	if err != nil {
		return nil, errors.Join(err, vmm.KillAndWait(ctx, name, proc))
	}
	m.Parts = []sandbox.Stage{{Name: "fork", Duration: forked.Sub(begin)}}
	if spec.From != nil {
		m.restored = guestDisks(spec, plan)
	}
	if err := m.started(ctx, appeared, forked, spec.From); err != nil {
		return nil, errors.Join(err, m.Kill(context.WithoutCancel(ctx)))
	}
	if m.Rec.Confinement, err = confine.Measure(id.PID); err != nil {
		select {
		case <-m.Done(): // the guest has ended already
		default:
			return nil, errors.Join(err, m.Kill(context.WithoutCancel(ctx)))
		}
	}
	e.log.Debug("launched", "sandbox", spec.ID, "pid", id.PID, "version", bin.version)
	return m, nil
}

// spawn starts Firecracker.
func spawn(cmd command, files runtimeFiles, as owner) (_ *process.Process, s streams, err error) {
	console, ours, err := vmmlog.MakePipe(files.console)
	if err != nil {
		return nil, s, err
	}
	// With these the streams would outlive Firecracker.
	defer console.Close()
	s.console = ours
	output, ours, err := vmmlog.MakePipe(files.output)
	if err != nil {
		s.console.Close()
		return nil, s, err
	}
	defer output.Close()
	s.output = ours
	if as.uid != 0 {
		err = os.Chown(files.output, as.uid, as.gid) // it is opened by name, as a log
	}
	var proc *process.Process
	if err == nil {
		proc, err = process.Start(process.Spec{
			Path: cmd.path, Args: cmd.args, Dir: cmd.dir, Attr: cmd.attr,
			Env:    []string{"PATH=/usr/bin:/bin", "LANG=C"},
			Output: console, Errors: output,
		})
	}
	if err != nil {
		s.close()
		return nil, s, err
	}
	return proc, s, nil
}

// started waits until Firecracker has started the guest, or has it go on from a saved state.
func (m *machine) started(ctx context.Context, appeared *dirWatch, forked time.Time, from *sandbox.SavedState) error {
	alive, cancel := during(m.Life(), ctx)
	defer cancel()
	err := appeared.wait(alive, m.files.api)
	var info fcapi.InstanceInfo
	if err == nil {
		m.mark("vmm-api", forked)
		listening := time.Now()
		var c *fcapi.Client
		if c, info, err = m.connect(alive); err == nil {
			defer c.Close()
			m.mark("vmm-start", listening)
			if from != nil {
				info, err = m.restore(alive, c, *from)
			}
		}
	}
	switch {
	case err == nil && info.State == fcapi.StateRunning:
		return nil
	case err == nil:
		return fmt.Errorf("start Firecracker: it says that the microVM is %q, and not that it runs", info.State)
	case ctx.Err() != nil:
		return fmt.Errorf("wait for Firecracker: %w", context.Cause(ctx))
	}
	why := m.explainFailure(ctx, err)
	if why == nil && from != nil {
		return fmt.Errorf("restore the microVM: Firecracker ended without a word: %w", err)
	}
	return why
}

func (m *machine) mark(stage string, since time.Time) {
	m.Parts = append(m.Parts, sandbox.Stage{Name: stage, Duration: time.Since(since)})
}

// explainFailure returns what Firecracker said about a start that failed with err, or nil when the guest did start and has
// ended already: Done and Exit say so then.
func (m *machine) explainFailure(ctx context.Context, err error) error {
	var fault *fcapi.FaultError
	if errors.As(err, &fault) { // it lives, and has an opinion
		return sandbox.Errorf(sandbox.Failure, hintFor(fault.Message), "start Firecracker: %w", err)
	}
	// Its socket broke or never came: it is about to end, or does not speak as Firecracker does.
	detail, ended := m.ended(ctx)
	switch {
	case !ended:
		return fmt.Errorf("talk to Firecracker: %w", err)
	case m.Exit().Code == 0:
		return nil
	}
	return sandbox.Errorf(sandbox.Failure, hintFor(detail), "start Firecracker: %s", detail)
}
