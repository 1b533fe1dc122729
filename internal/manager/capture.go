package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

// captured is a microVM's state at one point in time.
type captured struct {
	rec       sandbox.Record // of the sandbox then
	state     sandbox.SavedState
	disks     []snapshot.Disk
	pausedFor time.Duration
}

// capturing says how to capture.
type capturing struct {
	keep bool // the microVM stays halted
	sync bool // the disks are of use without the memory
}

// capture saves the microVM of a sandbox below dir, with what disks say of the disks at the same point in time. A microVM that ran goes
// on then, whatever fails, and one that was paused stays so; with keep it stays halted when all went well. The caller holds op.
func (m *Manager) capture(ctx context.Context, b *box, dir string, how capturing, disks func() ([]snapshot.Disk, error)) (c captured, err error) {
	saver, err := b.saver()
	if err != nil {
		return c, err
	}
	c.rec = b.record()
	// On disk first: a daemon that finds the microVM has it go on.
	if err := m.setSaving(b, true); err != nil {
		return c, err
	}
	halted := false
	defer func() {
		if err == nil && how.keep {
			return
		}
		// Whoever has asked may be gone: the microVM is not to be left like this.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adoptTimeout)
		defer cancel()
		began := time.Now()
		e := m.goesOnAfter(ctx, b, c.rec.State, saver, halted)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("let sandbox %q go on: %w", c.rec.Spec.Name, e))
		}
		if err != nil && (e != nil || !halted) {
			err = b.explainEnd(err)
		}
		if e != nil {
			return // the next daemon tries again
		}
		m.log.Debug("went on after it was saved", "sandbox", c.rec.Spec.Name, "took", time.Since(began))
		if e := m.setSaving(b, false); e != nil {
			m.log.Warn("record that a sandbox goes on", "sandbox", c.rec.Spec.Name, "err", e) // it goes on once more with the next daemon
		}
	}()
	state := filepath.Join(dir, snapshot.StateDir)
	if err := os.Mkdir(state, 0o700); err != nil {
		return c, fmt.Errorf("make a directory for a saved microVM: %w", err)
	}
	if err := m.freeze(ctx, b, how.sync); err != nil {
		return c, err
	}
	began := time.Now()
	halted = true
	if err := saver.Pause(ctx); err != nil {
		return c, fmt.Errorf("halt its vCPUs: %w", err)
	}
	b.mu.Lock()
	b.saves++ // before connections end by it
	b.mu.Unlock()
	if c.state, err = saver.Save(ctx, state); err != nil {
		return c, err
	}
	saved := time.Now()
	if c.disks, err = disks(); err != nil {
		return c, err
	}
	copied := time.Now()
	if c.rec.State == sandbox.Running && !how.keep {
		if err := saver.Resume(context.WithoutCancel(ctx)); err != nil {
			return c, fmt.Errorf("let its vCPUs go on: %w", err)
		}
		halted = false
	}
	c.pausedFor = time.Since(began)
	m.log.Info("saved a microVM", "sandbox", c.rec.Spec.Name, "state", saved.Sub(began), "disks", copied.Sub(saved), "paused", c.pausedFor)
	return c, nil
}

// explainEnd says whether the end of the microVM is behind err.
func (b *box) explainEnd(err error) error {
	b.mu.Lock()
	machine := b.machine
	b.mu.Unlock()
	if !ended(machine.Done()) {
		return err
	}
	return sandbox.Errorf(sandbox.Failure, "agentkernel logs "+b.record().Spec.Name+" shows its console", "its microVM ended meanwhile (%s)", exitReason(machine.Exit()))
}

// freeze has the guest freeze its commands. The vCPUs of a paused sandbox go on for that, and halt again.
func (m *Manager) freeze(ctx context.Context, b *box, sync bool) error {
	g, err := m.reachable(ctx, b)
	if err != nil {
		return err
	}
	if err := g.prepare(ctx, sync); err != nil {
		return fmt.Errorf("freeze its commands: %w", err)
	}
	return nil
}

// goesOnAfter lets a microVM be as it was before it was saved, or before that failed. A paused one stays frozen as well, until it is
// unpaused.
func (m *Manager) goesOnAfter(ctx context.Context, b *box, was sandbox.State, p sandbox.Pauser, halted bool) error {
	if was == sandbox.Paused {
		return p.Pause(ctx)
	}
	if halted {
		_, err := m.wake(ctx, b)
		return err
	}
	b.mu.Lock()
	g := b.guest
	b.mu.Unlock()
	m.goOn(ctx, b, g)
	return nil
}

// savedTimes counts the saves of the sandbox's microVM. Whoever talks to its guest on a connection of its own, and finds it broken
// when the count is another one, connects again.
func (b *box) savedTimes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.saves
}

// saver is the sandbox's microVM, when it is one that can be saved, and why not.
func (b *box) saver() (sandbox.Saver, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := b.rec.Spec.Name
	switch b.rec.State {
	case sandbox.Running, sandbox.Paused:
	case sandbox.Suspended:
		return nil, sandbox.Errorf(sandbox.Conflict, "resume it with agentkernel resume "+name, "sandbox %q is suspended", name)
	default:
		return nil, sandbox.Errorf(sandbox.Conflict, "start it with agentkernel start "+name, "sandbox %q is %s, not running", name, b.rec.State)
	}
	s, ok := b.machine.(sandbox.Saver)
	if !ok {
		return nil, sandbox.Errorf(sandbox.Unavailable, "", "the engine of sandbox %q cannot save microVMs", name)
	}
	return s, nil
}

func (m *Manager) setSaving(b *box, saving bool) error {
	rec := b.record()
	rec.Saving = saving
	err := m.save(b, rec)
	if err != nil && !saving {
		b.mu.Lock()
		b.rec.Saving = false
		b.mu.Unlock()
	}
	return err
}

// finish brings what capture has saved below dir into its final form.
func (m *Manager) finish(ctx context.Context, dir string, c *captured) error {
	r, ok := m.d.Engine.(sandbox.Restorer)
	if !ok {
		return sandbox.Errorf(sandbox.Unavailable, "", "no engine here restores microVMs")
	}
	spec := m.identity(c.rec)
	disks, err := m.disks(ctx, c.rec)
	if err != nil {
		return err
	}
	spec.Disks = disks
	c.state.Dir = filepath.Join(dir, snapshot.StateDir)
	c.state, err = r.Finish(ctx, spec, c.state)
	return err
}

// restorable says why a saved microVM cannot be restored, or nil.
func (m *Manager) restorable(ctx context.Context, dir string, mf snapshot.Manifest) error {
	r, ok := m.d.Engine.(sandbox.Restorer)
	if !ok {
		return sandbox.Errorf(sandbox.Unavailable, "", "no engine here restores microVMs")
	}
	if _, err := m.d.OpenImage(ctx, mf.Image.Digest); err != nil {
		return err
	}
	return r.Restorable(ctx, mf.In(dir))
}

// manifest is the part of a manifest that says whose state it is.
func (m *Manager) manifest(ctx context.Context, id string, c captured) (snapshot.Manifest, error) {
	mf := snapshot.Manifest{
		Version: snapshot.Version, ID: id, Sandbox: c.rec.Spec.Name, SandboxID: c.rec.ID, CreatedAt: time.Now().UTC(),
		Spec: c.rec.Spec, Image: c.rec.Image, Kernel: snapshot.Artifact{Release: c.rec.Kernel},
		State: c.state, Disks: c.disks, PausedFor: c.pausedFor,
	}
	if c.rec.Parent != nil {
		mf.Parent = c.rec.Parent.Snapshot
	}
	var err error
	if mf.Kernel.SHA256, err = m.d.Snapshots.Digest(ctx, c.rec.KernelFile); err != nil {
		return mf, err
	}
	mf.Initrd.SHA256, err = m.d.Snapshots.Digest(ctx, c.rec.InitrdFile)
	return mf, err
}
