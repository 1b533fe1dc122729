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
// root directory that has the same in it.
func arguments() []string {
	return []string{
		"--api-sock", apiName, "--config-file", configName,
		"--log-path", outputName, "--level", "Warning", "--show-level",
	}
}

// Launch starts a Firecracker for spec. It returns when Firecracker says that the guest was started; the guest boots
// meanwhile. What Firecracker says when it cannot is in the error.
func (e *Engine) Launch(ctx context.Context, spec sandbox.MachineSpec) (sandbox.Machine, error) {
	if err := check(spec, hostArch()); err != nil {
		return nil, fmt.Errorf("prepare a microVM: %w", err)
	}
	bin, _, err := e.usable(ctx, spec.Arch)
	if err != nil {
		return nil, err
	}
	for what, path := range map[string]string{"kernel": spec.Kernel.Path, "initramfs": spec.Initrd} {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("find the %s: %w", what, err)
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
	config, resources := configuration(spec)
	if err := files.write(config); err != nil {
		return nil, err
	}
	if confined.kind == plain {
		if err := files.link(resources); err != nil {
			return nil, err
		}
	}
	as, err := confined.owner(spec.ID)
	if err != nil {
		return nil, err
	}
	if err := files.handOver(as, resources); err != nil {
		return nil, err
	}
	cmd, err := confined.command(bin, spec, files, resources, as)
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
	}
	m, err := e.attach(proc, rec, spec, logs, streams, false)
	if err != nil {
		return nil, errors.Join(err, vmm.KillAndWait(ctx, name, proc))
	}
	m.Parts = []sandbox.Stage{{Name: "fork", Duration: forked.Sub(begin)}}
	if err := m.started(ctx, appeared, forked); err != nil {
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

// started waits until Firecracker has started the guest.
func (m *machine) started(ctx context.Context, appeared *dirWatch, forked time.Time) error {
	alive, cancel := during(m.Life(), ctx)
	defer cancel()
	err := appeared.wait(alive, m.files.api)
	var info fcapi.InstanceInfo
	if err == nil {
		m.Parts = append(m.Parts, sandbox.Stage{Name: "vmm-api", Duration: time.Since(forked)})
		listening := time.Now()
		var c *fcapi.Client
		if c, info, err = m.connect(alive); err == nil {
			c.Close()
			m.Parts = append(m.Parts, sandbox.Stage{Name: "vmm-start", Duration: time.Since(listening)})
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
	return m.explainFailure(ctx, err)
}

// endTimeout is how long a Firecracker whose API socket broke may take to end. The kernel closes its sockets when it ends, so
// one that takes longer has not.
const endTimeout = 2 * time.Second

// explainFailure returns what Firecracker said about a start that failed with err, or nil when the guest did start and has
// ended already: Done and Exit say so then.
func (m *machine) explainFailure(ctx context.Context, err error) error {
	var fault *fcapi.FaultError
	if errors.As(err, &fault) { // it lives, and has an opinion
		return sandbox.Errorf(sandbox.Failure, hintFor(fault.Message), "start Firecracker: %w", err)
	}
	// Its socket broke or never came: it is about to end, or does not speak as Firecracker does.
	timeout, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	select {
	case <-m.Done():
	case <-timeout.Done():
		return fmt.Errorf("talk to Firecracker: %w", err)
	}
	if m.Exit().Code == 0 {
		return nil
	}
	detail := m.Exit().Detail
	if detail == "" {
		detail = fmt.Sprintf("it ended with code %d %s", m.Exit().Code, m.Exit().Signal)
	}
	return sandbox.Errorf(sandbox.Failure, hintFor(detail), "start Firecracker: %s", detail)
}
