package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

var (
	errStopped = errors.New("it was stopped while it started")
	errRemoved = errors.New("it was removed while it started")
)

// StartOptions of one start.
type StartOptions struct {
	Timeout           time.Duration // for the guest agent to answer
	CountInstructions bool
}

// Start boots the microVM of a sandbox and returns when the guest agent answers. A sandbox that runs already is left as it
// is. When ctx ends first, the microVM is killed and the sandbox is stopped.
func (m *Manager) Start(ctx context.Context, name string, opts StartOptions) (sandbox.Record, error) {
	b, err := m.find(name)
	if err != nil {
		return sandbox.Record{}, err
	}
	if err := b.acquire(ctx); err != nil {
		return sandbox.Record{}, err
	}
	defer b.release()
	switch rec := b.record(); rec.State {
	case sandbox.Running:
		return rec, nil
	case sandbox.Paused:
		return sandbox.Record{}, paused(name)
	}
	// Before anything else, so that a port that is taken changes nothing.
	published, bindings, err := m.bind(ctx, name, b.record().Spec.Publish)
	if err != nil {
		return sandbox.Record{}, fmt.Errorf("start %q: %w", name, err)
	}
	err = m.withVolumes(b.record(), func() error {
		return m.move(b, sandbox.Starting, func(r *sandbox.Record) {
			r.Reason, r.Machine, r.Stages, r.Instructions, r.Hygiene, r.Bindings = "", nil, nil, 0, nil, bindings
			r.StartedAt, r.FinishedAt = time.Now().UTC(), time.Time{}
		})
	})
	if err != nil {
		published.close()
		return sandbox.Record{}, err
	}

	started := time.Now()
	startCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bootCtx, cancelBoot := context.WithTimeoutCause(startCtx, opts.Timeout, fmt.Errorf("the guest agent did not answer within %v", opts.Timeout))
	defer cancelBoot()
	b.setCancel(cancel)
	err = m.boot(bootCtx, b, opts, started)
	if errors.Is(err, context.DeadlineExceeded) && bootCtx.Err() != nil && startCtx.Err() == nil {
		err = context.Cause(bootCtx) // wherever the deadline fell, it is told as what it is
	}
	b.setCancel(nil)
	if err != nil {
		published.close()
		return sandbox.Record{}, m.startFailed(ctx, startCtx, b, err)
	}
	published.serve(m, b, bindings)
	rec := b.record()
	m.meters.starts.Add(startOK, 1)
	for _, s := range rec.Stages {
		m.meters.stage(s)
	}
	m.log.Info("running", "sandbox", name, "took", time.Since(started).Round(time.Millisecond), "pid", rec.Machine.PID)
	return rec, nil
}

// boot brings a sandbox from starting to running. After an error nothing of the microVM is left.
func (m *Manager) boot(ctx context.Context, b *box, opts StartOptions, started time.Time) (err error) {
	spec, kernel, err := m.machineSpec(ctx, b.record(), opts)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.removeRuntimeDir(spec.ID))
		}
	}()
	if err := os.MkdirAll(spec.RuntimeDir, 0o700); err != nil {
		return fmt.Errorf("make the runtime directory: %w", err)
	}
	stages := stageClock{last: started}
	stages.mark("prepare")
	machine, err := m.d.Engine.Launch(ctx, spec)
	if err != nil {
		return err
	}
	stages.spawned(machine)
	g, err := m.bootGuest(ctx, b, machine, kernel.Version)
	var count uint64
	if err == nil && opts.CountInstructions {
		count, err = m.d.ReadCount(spec.CountFile)
	}
	if err == nil {
		stages.boot(g.info())
		err = m.move(b, sandbox.Running, func(r *sandbox.Record) { r.Stages, r.Instructions, r.Hygiene = stages.list, count, g.booted() })
	}
	if err != nil {
		err = explain(ctx, machine, err)
		g.close()
		return errors.Join(err, machine.Kill(context.WithoutCancel(ctx)))
	}
	b.mu.Lock()
	b.started, b.firstExec = time.Now(), false
	b.mu.Unlock()
	m.attach(b, machine, g)
	return nil
}

// bootGuest records the VMM and waits for its guest agent.
func (m *Manager) bootGuest(ctx context.Context, b *box, machine sandbox.Machine, kernel string) (*guest, error) {
	rec := b.record()
	mrec := machine.Record()
	rec.Machine, rec.Kernel = &mrec, kernel
	if err := m.save(b, rec); err != nil {
		return nil, err
	}
	return connect(ctx, machine, rec)
}

// attach makes machine the sandbox's microVM and watches for its end. g is nil when its guest agent cannot be talked to, as the
// vCPUs are halted.
func (m *Manager) attach(b *box, machine sandbox.Machine, g *guest) {
	if !m.inBackground() {
		g.close()
		if err := machine.Release(); err != nil {
			m.log.Warn("let go of the VMM", "err", err)
		}
		return
	}
	watched := make(chan struct{})
	b.mu.Lock()
	b.machine, b.guest, b.watched = machine, g, watched
	if b.rec.State == sandbox.Running {
		m.beginIdle(b)
	}
	b.mu.Unlock()
	go m.watch(b, machine, watched)
	m.follow(b, machine, g)
}

// watch waits for the end of a microVM. One that nobody asked for makes the sandbox failed.
func (m *Manager) watch(b *box, machine sandbox.Machine, watched chan struct{}) {
	defer m.background.Done()
	defer close(watched)
	select {
	case <-machine.Done():
	case <-m.ctx.Done():
		return // the daemon ends; the microVM goes on
	}
	reason := exitReason(machine.Exit())
	m.publish(b.record(), events.Event{Type: events.VMMEnd, Reason: reason})
	if b.acquire(m.ctx) != nil {
		return // removed, or the daemon ends
	}
	defer b.release()
	b.mu.Lock()
	mine, g, rec := b.machine == machine, b.guest, b.rec
	b.mu.Unlock()
	if !mine {
		return
	}
	g.close()
	m.log.Warn("the microVM ended by itself", "sandbox", rec.Spec.Name, "reason", reason)
	m.settle(b, sandbox.Failed, reason)
	if err := m.removeRuntimeDir(rec.ID); err != nil {
		m.log.Warn("remove the runtime directory", "sandbox", rec.Spec.Name, "err", err)
	}
}

// startFailed records the end of a start and returns the error for the user.
func (m *Manager) startFailed(ctx, startCtx context.Context, b *box, err error) error {
	rec := b.record()
	name := rec.Spec.Name
	if startCtx.Err() != nil { // stopped, removed, or the caller went away
		cause := context.Cause(startCtx)
		if ctx.Err() != nil {
			cause = errors.New("the start was cancelled")
		}
		m.settle(b, sandbox.Stopped, "")
		m.meters.starts.Add(startCancelled, 1)
		return sandbox.Errorf(sandbox.Conflict, "", "start %q: %w", name, cause)
	}
	m.settle(b, sandbox.Failed, err.Error())
	m.meters.starts.Add(startFailed, 1)
	m.log.Warn("the start failed", "sandbox", name, "err", err)
	var e *sandbox.Error
	if errors.As(err, &e) {
		return &sandbox.Error{Kind: e.Kind, Message: fmt.Sprintf("start %q: %s", name, err), Hint: e.Hint, Err: err}
	}
	tail := consoleTail(filepath.Join(m.d.Store.Dir(rec.ID), consoleFile))
	return sandbox.Errorf(sandbox.Failure, "agentkernel logs "+name+" shows the whole console", "start %q: %w%s", name, err, tail)
}

// machineSpec is what the engine needs to start, adopt or sweep the microVM of rec.
func (m *Manager) machineSpec(ctx context.Context, rec sandbox.Record, opts StartOptions) (sandbox.MachineSpec, sandbox.KernelImage, error) {
	spec := m.identity(rec)
	image, err := m.d.OpenImage(ctx, rec.Image.Digest)
	if err != nil {
		return spec, sandbox.KernelImage{}, err
	}
	if spec.Kernel, err = m.d.Kernel(rec.Spec.Arch); err != nil {
		return spec, spec.Kernel, err
	}
	if spec.Initrd, err = m.d.Initrd(ctx, rec.Spec.Arch); err != nil {
		return spec, spec.Kernel, err
	}
	dir := m.d.Store.Dir(rec.ID)
	spec.Disks = []sandbox.Disk{
		{Role: sandbox.RootLower, Path: image.Path, FS: rec.Image.FS, ReadOnly: true},
		{Role: sandbox.Upper, Path: filepath.Join(dir, upperFile), FS: "ext4"},
	}
	if rec.Spec.Project != "" {
		spec.Disks = append(spec.Disks, sandbox.Disk{Role: sandbox.Workspace, Path: filepath.Join(dir, workspaceFile), FS: "ext4", ReadOnly: true})
	}
	volumes, err := m.volumeDisks(rec)
	if err != nil {
		return spec, spec.Kernel, err
	}
	spec.Disks = append(spec.Disks, volumes...)
	if opts.CountInstructions {
		spec.CountFile = filepath.Join(spec.RuntimeDir, "instructions")
	}
	return spec, spec.Kernel, nil
}

// identity is the part of a MachineSpec that never needs anything to exist.
func (m *Manager) identity(rec sandbox.Record) sandbox.MachineSpec {
	return sandbox.MachineSpec{
		ID: rec.ID, Engine: rec.Spec.Engine, Arch: rec.Spec.Arch, VCPUs: rec.Spec.VCPUs, MemoryMiB: rec.Spec.MemoryMiB, VsockCID: rec.Spec.VsockCID,
		RuntimeDir: filepath.Join(m.d.RuntimeDir, rec.ID), LogDir: m.d.Store.Dir(rec.ID),
	}
}

func (m *Manager) removeRuntimeDir(id string) error {
	if err := os.RemoveAll(filepath.Join(m.d.RuntimeDir, id)); err != nil {
		return fmt.Errorf("remove the runtime directory: %w", err)
	}
	return nil
}

func (b *box) setCancel(cancel context.CancelCauseFunc) {
	b.mu.Lock()
	b.cancelStart = cancel
	b.mu.Unlock()
}

// cutStart ends a start that is under way.
func (b *box) cutStart(cause error) {
	b.mu.Lock()
	cancel := b.cancelStart
	b.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}
