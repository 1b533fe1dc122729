package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// adoptTimeout is how long the guest agent of a microVM that was found again may take to answer.
const adoptTimeout = 30 * time.Second

// savingTimeout is adoptTimeout for one that was being saved when the last daemon died: some VMMs do nothing else until all memory is on
// the disk.
const savingTimeout = 10 * time.Minute

// Reconcile reads all records and makes them true again: microVMs that still run are adopted, ends that nobody saw are
// recorded, removals are finished, and runtime directories of nobody are deleted. Adopted sandboxes answer to requests
// when their guest agent has answered; Reconcile does not wait for that.
func (m *Manager) Reconcile(ctx context.Context) error {
	if err := m.loadVolumes(); err != nil {
		return err
	}
	records, problems, err := m.d.Store.Load()
	if err != nil {
		return err
	}
	for _, p := range problems {
		m.log.Error("a sandbox's record cannot be read; it is left as it is", "path", p.Path, "err", p.Err)
		m.problems = append(m.problems, p.String())
		m.unread = append(m.unread, filepath.Base(filepath.Dir(p.Path)))
	}
	known := map[string]bool{}
	for _, rec := range records {
		if other := m.byName[rec.Spec.Name]; other != nil {
			m.problems = append(m.problems, fmt.Sprintf("%s: it has the name of %s", m.d.Store.Dir(rec.ID), m.d.Store.Dir(other.rec.ID)))
			m.unread = append(m.unread, rec.ID)
			continue
		}
		b := newBox(rec)
		known[rec.ID] = true
		m.mu.Lock()
		m.byName[rec.Spec.Name] = b
		m.cids[rec.Spec.VsockCID] = true
		m.nameVolumes(rec.Spec.Name, rec.Spec.Volumes)
		m.mu.Unlock()
		if err := m.tidySaved(rec); err != nil {
			return err
		}
		if rec.State == sandbox.Created {
			if err := m.sweepUnused(ctx, rec); err != nil {
				return err
			}
		}
		if fork := rec.Restore; rec.State == sandbox.Created && fork != nil && fork.Kind == sandbox.RestoreFork {
			// It was not started, and what it was to go on from is gone.
			if err := m.forget(b, rec); err != nil {
				return err
			}
			continue
		}
		if rec.State.HasDisks() {
			if err := m.repair(ctx, b); err != nil {
				return fmt.Errorf("repair sandbox %q: %w", rec.Spec.Name, err)
			}
		}
	}
	if err := m.sweepRuntimeDirs(ctx, known, problems != nil); err != nil {
		return err
	}
	// Not before: what a crash has left of saved states may still be in use by VMMs that were just ended, and QEMU makes a file of
	// memory that it does not find.
	if err := m.loadSnapshots(); err != nil {
		return err
	}
	if m.d.Templates != nil {
		if _, err := m.d.Templates.Load(); err != nil { // what cannot be read is made anew when it is wanted
			return err
		}
	}
	m.fillPool()
	return nil
}

// tidySaved deletes saved memory that is not whole, or not of use any more.
func (m *Manager) tidySaved(rec sandbox.Record) error {
	if rec.Restore == nil || rec.Restore.Kind != sandbox.RestoreSuspended {
		return m.discardSaved(rec)
	}
	if err := os.RemoveAll(filepath.Join(m.d.Store.Dir(rec.ID), newSavedDir)); err != nil {
		return fmt.Errorf("delete memory that was not saved to the end: %w", err)
	}
	return nil
}

// repair brings one sandbox, whose record says that it may have a microVM, back to a state that is true.
func (m *Manager) repair(ctx context.Context, b *box) error {
	rec := b.record()
	spec := m.identity(rec)
	log := m.log.With("sandbox", rec.Spec.Name)
	var machine sandbox.Machine
	if rec.Machine != nil {
		var err error
		machine, err = m.d.Engine.Adopt(ctx, spec, *rec.Machine)
		if err != nil && !errors.Is(err, sandbox.ErrGone) {
			return fmt.Errorf("adopt its VMM: %w", err)
		}
	}
	if machine == nil {
		// The daemon may have died between the start of the VMM and the record of it.
		if err := m.d.Engine.Sweep(ctx, spec); err != nil {
			return fmt.Errorf("clear up after its VMM: %w", err)
		}
		if rec.State == sandbox.Suspended {
			return m.removeRuntimeDir(rec.ID)
		}
		log.Warn("its VMM is gone", "was", rec.State)
		if rec.State == sandbox.Removing || rec.Restore != nil && rec.Restore.Kind == sandbox.RestoreFork {
			return m.forget(b, rec)
		}
		to, reason := sandbox.Failed, "the VMM ended while no daemon ran"
		switch rec.State {
		case sandbox.Stopping:
			to, reason = sandbox.Stopped, rec.Reason
		case sandbox.Starting:
			reason = "the daemon died while it started"
			if m.intact(ctx, rec) {
				to, reason = sandbox.Suspended, "the daemon died while it was resumed; its memory is as it was"
			}
		}
		m.settle(b, to, reason)
		return m.removeRuntimeDir(rec.ID)
	}
	if rec.State == sandbox.Removing {
		if err := machine.Kill(ctx); err != nil {
			return fmt.Errorf("kill its VMM: %w", err)
		}
		return m.forget(b, rec)
	}
	// The guest may take a while to answer, or never answer: whoever asks for this sandbox waits, nobody else.
	// Connections to its ports wait as well.
	<-b.op
	published, bindings := m.rebind(ctx, b)
	m.background.Add(1)
	go func() {
		defer m.background.Done()
		defer b.release()
		m.adopted(b, machine, published, bindings)
	}()
	return nil
}

// adopted finishes the adoption of a VMM that runs. The caller holds op.
func (m *Manager) adopted(b *box, machine sandbox.Machine, published *publication, bindings []sandbox.Binding) {
	rec := b.record()
	log := m.log.With("sandbox", rec.Spec.Name)
	patience := adoptTimeout
	if rec.Saving {
		patience = savingTimeout
	}
	ctx, cancel := context.WithTimeoutCause(m.ctx, patience, fmt.Errorf("the guest agent did not answer within %v after the daemon came back", patience))
	defer cancel()
	if rec.State == sandbox.Paused {
		if err := m.adoptPaused(ctx, b, machine); err != nil {
			m.notAdopted(b, machine, nil, published, err)
			return
		}
		log.Info("adopted, paused", "pid", rec.Machine.PID)
		published.serve(m, b, bindings)
		return
	}
	g, err := m.reach(ctx, machine, rec)
	if err == nil && rec.State == sandbox.Stopping {
		published.close()
		b.mu.Lock()
		b.guest = g
		b.mu.Unlock()
		if err := m.shutDown(context.Background(), b, machine, unmountTime); err != nil {
			log.Error("finish its stop", "err", err)
		}
		return
	}
	if err == nil {
		switch {
		case rec.State == sandbox.Starting:
			err = m.move(b, sandbox.Running, func(r *sandbox.Record) { r.Restore, r.Hygiene = nil, g.tookUp.After(r.Hygiene) })
		case rec.Saving:
			err = m.setSaving(b, false)
		}
		if err == nil {
			if err := m.tidySaved(b.record()); err != nil {
				log.Warn("delete memory that is not needed any more", "err", err)
			}
			log.Info("adopted", "pid", rec.Machine.PID)
			m.attach(b, machine, g)
			m.watchAllDetached(ctx, b, g)
			published.serve(m, b, bindings)
			return
		}
	}
	m.notAdopted(b, machine, g, published, explain(ctx, machine, err))
}

// adoptPaused takes over a microVM whose record says that it is paused. It may not be: a daemon may have died before it came to
// that, or in the middle of letting it go on.
func (m *Manager) adoptPaused(ctx context.Context, b *box, machine sandbox.Machine) error {
	p, ok := machine.(sandbox.Pauser)
	if !ok {
		return errors.New("its engine cannot halt vCPUs any more")
	}
	if err := p.Pause(ctx); err != nil {
		return err
	}
	if b.record().Saving {
		if err := m.setSaving(b, false); err != nil {
			return err
		}
	}
	m.attach(b, machine, nil)
	return nil
}

// reach waits for the guest agent of a microVM that is not to be paused. One that was to be stopped may be paused still, and one that
// was being saved may be halted.
func (m *Manager) reach(ctx context.Context, machine sandbox.Machine, rec sandbox.Record) (*guest, error) {
	if p, ok := machine.(sandbox.Pauser); ok && (rec.State == sandbox.Stopping || rec.Saving) {
		if err := p.Resume(ctx); err != nil {
			m.log.Warn("let a microVM that may be halted go on", "sandbox", rec.Spec.Name, "err", err)
		}
	}
	g, err := connect(ctx, machine, rec)
	if err != nil {
		return nil, err
	}
	return g, g.takeUp(ctx, rec)
}

// notAdopted ends a microVM that cannot be adopted. The caller holds op.
func (m *Manager) notAdopted(b *box, machine sandbox.Machine, g *guest, published *publication, err error) {
	rec := b.record()
	log := m.log.With("sandbox", rec.Spec.Name)
	published.close()
	if m.ctx.Err() != nil { // the daemon ends; the next one adopts it
		if err := machine.Release(); err != nil {
			log.Warn("let go of the VMM", "err", err)
		}
		return
	}
	log.Error("its microVM cannot be adopted", "err", err)
	g.close()
	if err := machine.Kill(context.Background()); err != nil {
		log.Error("kill its VMM", "err", err)
	}
	if r := rec.Restore; r != nil && r.Kind == sandbox.RestoreFork { // and what it was to go on from is gone
		if err := m.forget(b, rec); err != nil {
			log.Error("remove a fork that cannot be adopted", "err", err)
		}
		return
	}
	if rec.State == sandbox.Stopping {
		m.settle(b, sandbox.Stopped, rec.Reason)
	} else {
		to := sandbox.Failed
		if m.intact(context.Background(), rec) {
			to = sandbox.Suspended
		}
		m.settle(b, to, err.Error())
	}
	if err := m.removeRuntimeDir(rec.ID); err != nil {
		log.Warn("remove the runtime directory", "err", err)
	}
}

// sweepUnused ends the microVM of the pool that a sandbox had got, and was not started with, if there is one.
func (m *Manager) sweepUnused(ctx context.Context, rec sandbox.Record) error {
	spec := m.identity(rec)
	if _, err := os.Stat(spec.RuntimeDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := m.d.Engine.Sweep(ctx, spec); err != nil {
		return fmt.Errorf("clear up after a microVM that was not used: %w", err)
	}
	return m.removeRuntimeDir(rec.ID)
}

// sweepRuntimeDirs deletes the runtime directories of sandboxes that are not there, and ends their VMMs: those of templates. While there are records that could not
// be read, a directory may be one of theirs and stays.
func (m *Manager) sweepRuntimeDirs(ctx context.Context, known map[string]bool, keep bool) error {
	if keep {
		return nil
	}
	entries, err := os.ReadDir(m.d.RuntimeDir)
	if err != nil {
		return fmt.Errorf("read the runtime directory: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && sandbox.ValidID(e.Name()) && !known[e.Name()] {
			if err := m.d.Engine.Sweep(ctx, m.identity(sandbox.Record{ID: e.Name()})); err != nil {
				return fmt.Errorf("clear up after a VMM of nobody: %w", err)
			}
			if err := m.removeRuntimeDir(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}
