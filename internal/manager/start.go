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
	Cold              bool // boot, whatever there is to go on from

	first bool // the sandbox has not been started before: its upper disk is as it was made
}

// Start boots the microVM of a sandbox, or has it go on from what was saved, and returns when the guest agent answers. A sandbox that runs already is left as it
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
	return m.start(ctx, b, opts)
}

// start starts a sandbox. The caller holds op.
func (m *Manager) start(ctx context.Context, b *box, opts StartOptions) (sandbox.Record, error) {
	rec := b.record()
	b.mu.Lock()
	left := b.machine != nil
	b.mu.Unlock()
	if left && rec.State == sandbox.Suspended {
		if err := m.endSuspended(ctx, b); err != nil {
			return sandbox.Record{}, fmt.Errorf("end the VMM that %q had: %w", rec.Spec.Name, err)
		}
	}
	if err := sandbox.Next(rec.Spec.Name, rec.State, sandbox.Starting); err != nil {
		return sandbox.Record{}, err
	}
	// Before anything else, so that what cannot be restored changes nothing, nor does a port that is taken.
	from, err := m.origin(ctx, rec, opts.Cold)
	if err != nil {
		return sandbox.Record{}, err
	}
	defer from.close()
	return m.startFrom(ctx, b, opts, from)
}

// startFrom starts a sandbox. The caller holds op.
func (m *Manager) startFrom(ctx context.Context, b *box, opts StartOptions, from *origin) (sandbox.Record, error) {
	name := b.record().Spec.Name
	opts.first = b.record().StartedAt.IsZero()
	published, bindings, err := m.bind(ctx, name, b.record().Spec.Publish)
	if err != nil {
		return sandbox.Record{}, fmt.Errorf("start %q: %w", name, err)
	}
	err = m.withVolumes(b.record(), func() error {
		return m.move(b, sandbox.Starting, func(r *sandbox.Record) {
			if from.booted() {
				r.Restore = nil
			}
			if from == nil || from.kind != sandbox.RestoreSuspended {
				r.Hygiene = nil
			}
			r.Reason, r.Machine, r.Stages, r.Instructions, r.Bindings = "", nil, nil, 0, bindings
			r.StartedAt, r.FinishedAt = time.Now().UTC(), time.Time{}
		})
	})
	if err != nil {
		published.close()
		return sandbox.Record{}, err
	}
	if from.booted() {
		if err := m.discardSaved(b.record()); err != nil { // as after start --cold
			m.log.Warn("delete memory that was given up", "sandbox", name, "err", err)
		}
	}

	started := time.Now()
	startCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bootCtx, cancelBoot := context.WithTimeoutCause(startCtx, opts.Timeout, fmt.Errorf("the guest agent did not answer within %v", opts.Timeout))
	defer cancelBoot()
	b.setCancel(cancel)
	err = m.bring(bootCtx, b, opts, from, started)
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
	if from != nil && from.kind == sandbox.RestoreSuspended {
		if err := m.discardSaved(rec); err != nil {
			m.log.Warn("delete memory that is not needed any more", "sandbox", name, "err", err)
		}
	}
	m.meters.starts.Add(startOK, 1)
	for _, s := range rec.Stages {
		m.meters.stage(s)
	}
	m.log.Info("running", "sandbox", name, "took", time.Since(started).Round(time.Millisecond), "pid", rec.Machine.PID)
	return rec, nil
}

// bring brings a sandbox from starting to running: by a microVM of the pool that waits for it, from what it goes on from, from a
// template, or by a boot.
func (m *Manager) bring(ctx context.Context, b *box, opts StartOptions, from *origin, started time.Time) error {
	defer m.starting()()
	anew := from == nil && !opts.Cold && !opts.CountInstructions
	if !anew {
		m.endPooled(b)
		return m.boot(ctx, b, opts, from, started)
	}
	name := b.record().Spec.Name
	if p := b.claim(); p != nil {
		err := m.takeOver(ctx, b, p, started)
		if err == nil || ctx.Err() != nil {
			return err
		}
		m.log.Warn("a microVM of the pool cannot be used", "sandbox", name, "err", err)
	}
	from, later, err := m.fromTemplate(ctx, b.record(), opts.first)
	if err != nil {
		return err
	}
	defer from.close()
	err = m.boot(ctx, b, opts, from, started)
	if err == nil && later != nil {
		later()
	}
	if err == nil || from == nil || ctx.Err() != nil {
		return err
	}
	m.log.Warn("a sandbox boots, as it cannot go on from its template", "sandbox", name, "template", from.manifest.ID, "err", err)
	from.close()
	m.templateFailed(from.manifest.ID, err)
	return m.boot(ctx, b, opts, nil, started)
}

// boot brings a sandbox from starting to running. After an error nothing of the microVM is left.
func (m *Manager) boot(ctx context.Context, b *box, opts StartOptions, from *origin, started time.Time) (err error) {
	spec, err := m.launchSpec(ctx, b.record(), opts, from)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.removeRuntimeDir(spec.ID))
		}
	}()
	if err := m.makeRuntimeDir(spec); err != nil {
		return err
	}
	if from != nil {
		if err := m.placeDisks(ctx, m.d.Store.Dir(spec.ID), from); err != nil {
			return err
		}
	}
	stages := stageClock{last: started}
	stages.mark("prepare")
	machine, err := m.d.Engine.Launch(ctx, spec)
	if err != nil {
		return err
	}
	stages.spawned(machine)
	g, err := m.bootGuest(ctx, b, machine, spec)
	var hygiene *sandbox.Hygiene
	switch {
	case err != nil:
	case from.restores():
		stages.mark("connect")
		hygiene, err = g.resume(ctx, goingOn(from.kind))
		stages.mark("go on")
	default:
		stages.boot(g.info())
		hygiene = g.booted()
	}
	var count uint64
	if err == nil && opts.CountInstructions {
		count, err = m.d.ReadCount(spec.CountFile)
	}
	if err == nil {
		err = m.move(b, sandbox.Running, func(r *sandbox.Record) {
			r.Stages, r.Instructions, r.Restore, r.Hygiene = stages.list, count, nil, hygiene.After(r.Hygiene)
		})
	}
	if err != nil {
		err = explain(ctx, machine, err)
		g.close()
		return errors.Join(err, machine.Kill(context.WithoutCancel(ctx)))
	}
	m.began(b)
	m.attach(b, machine, g)
	if from.restores() && !from.booted() { // no command has run in a template
		m.watchAllDetached(ctx, b, g)
	}
	return nil
}

// bootGuest records the VMM and waits for its guest agent.
func (m *Manager) bootGuest(ctx context.Context, b *box, machine sandbox.Machine, spec sandbox.MachineSpec) (*guest, error) {
	rec := b.record()
	mrec := machine.Record()
	rec.Machine = &mrec
	if spec.Kernel.Path != "" { // also when a template has booted it
		rec.Kernel, rec.KernelFile, rec.InitrdFile = spec.Kernel.Version, spec.Kernel.Path, spec.Initrd
	}
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
	if rec.State == sandbox.Suspended { // its end was to come, and took long
		if err := m.endSuspended(m.ctx, b); err != nil {
			m.log.Warn("clear up after a suspended sandbox", "sandbox", rec.Spec.Name, "err", err)
		}
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
		to := sandbox.Stopped
		if m.intact(ctx, rec) {
			to = sandbox.Suspended
		}
		m.settle(b, to, "")
		m.meters.starts.Add(startCancelled, 1)
		return sandbox.Errorf(sandbox.Conflict, "", "start %q: %w", name, cause)
	}
	to := sandbox.Failed
	if m.intact(context.WithoutCancel(ctx), rec) {
		to = sandbox.Suspended
	}
	m.settle(b, to, err.Error())
	m.meters.starts.Add(startFailed, 1)
	m.log.Warn("the start failed", "sandbox", name, "err", err)
	var e *sandbox.Error
	if errors.As(err, &e) {
		return &sandbox.Error{Kind: e.Kind, Message: fmt.Sprintf("start %q: %s", name, err), Hint: e.Hint, Err: err}
	}
	tail := consoleTail(filepath.Join(m.d.Store.Dir(rec.ID), consoleFile))
	return sandbox.Errorf(sandbox.Failure, "agentkernel logs "+name+" shows the whole console", "start %q: %w%s", name, err, tail)
}

// launchSpec is what the engine needs to start the microVM of rec.
func (m *Manager) launchSpec(ctx context.Context, rec sandbox.Record, opts StartOptions, from *origin) (spec sandbox.MachineSpec, err error) {
	spec = m.identity(rec)
	if spec.Disks, err = m.disks(ctx, rec); err != nil {
		return spec, err
	}
	if opts.CountInstructions {
		spec.CountFile = filepath.Join(spec.RuntimeDir, "instructions")
	}
	if from.restores() {
		state := from.manifest.In(from.dir)
		spec.From = &state
		if !from.booted() {
			return spec, nil
		}
	}
	if spec.Kernel, err = m.d.Kernel(rec.Spec.Arch); err != nil {
		return spec, err
	}
	spec.Initrd, err = m.d.Initrd(ctx, rec.Spec.Arch)
	return spec, err
}

// disks are those of a sandbox, in the order of its guest.
func (m *Manager) disks(ctx context.Context, rec sandbox.Record) ([]sandbox.Disk, error) {
	image, err := m.d.OpenImage(ctx, rec.Image.Digest)
	if err != nil {
		return nil, err
	}
	dir := m.d.Store.Dir(rec.ID)
	disks := []sandbox.Disk{
		{Role: sandbox.RootLower, Path: image.Path, FS: rec.Image.FS, ReadOnly: true},
		{Role: sandbox.Upper, Path: filepath.Join(dir, upperFile), FS: "ext4"},
	}
	if rec.Spec.Project != "" {
		disks = append(disks, sandbox.Disk{Role: sandbox.Workspace, Path: filepath.Join(dir, workspaceFile), FS: "ext4", ReadOnly: true})
	}
	volumes, err := m.volumeDisks(rec)
	return append(disks, volumes...), err
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
