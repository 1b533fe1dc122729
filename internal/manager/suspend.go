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
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

// The directories of a sandbox's own saved microVM, in its own. It is whole when it has its final name.
const (
	savedDir    = "saved"
	newSavedDir = "saved.new"
)

func (m *Manager) savedDir(rec sandbox.Record) string {
	return filepath.Join(m.d.Store.Dir(rec.ID), savedDir)
}

// Suspend puts the memory of a running or paused sandbox on disk and ends its VMM. A suspended one is left as it is.
func (m *Manager) Suspend(ctx context.Context, name string) (sandbox.Record, error) {
	b, err := m.find(name)
	if err != nil {
		return sandbox.Record{}, err
	}
	if err := b.acquire(ctx); err != nil {
		return sandbox.Record{}, err
	}
	defer b.release()
	if rec := b.record(); rec.State == sandbox.Suspended {
		return rec, nil
	}
	if err := m.suspend(ctx, b, ""); err != nil {
		return sandbox.Record{}, asFailure(err, "suspend %q", name)
	}
	return b.record(), nil
}

// Resume has a suspended sandbox go on. One that runs is left as it is; one that would have to boot is not started.
func (m *Manager) Resume(ctx context.Context, name string, timeout time.Duration) (sandbox.Record, error) {
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
	case sandbox.Suspended:
		return m.start(ctx, b, StartOptions{Timeout: timeout})
	case sandbox.Paused:
		return sandbox.Record{}, paused(name)
	default:
		return sandbox.Record{}, sandbox.Errorf(sandbox.Conflict, "agentkernel start "+name+" boots it", "sandbox %q is %s, not suspended", name, rec.State)
	}
}

// suspend suspends a sandbox. reason is for the record, when nobody asked for it. The caller holds op.
func (m *Manager) suspend(ctx context.Context, b *box, reason string) (err error) {
	began := time.Now()
	rec := b.record()
	dir, staged := m.savedDir(rec), filepath.Join(m.d.Store.Dir(rec.ID), newSavedDir)
	saver, err := b.saver()
	if err != nil {
		return err
	}
	if err := m.discardSaved(rec); err != nil {
		return err
	}
	if err := os.Mkdir(staged, 0o700); err != nil {
		return fmt.Errorf("make a directory for its memory: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		if e := m.discardSaved(rec); e != nil {
			m.log.Error("delete what a suspension that failed has left", "sandbox", rec.Spec.Name, "err", e)
		}
	}()
	c, err := m.capture(ctx, b, staged, capturing{keep: true, sync: true}, func() ([]snapshot.Disk, error) { return m.stampDisks(ctx, rec) })
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), adoptTimeout)
		defer cancel()
		err = errors.Join(err, m.goesOnAfter(ctx, b, rec.State, saver, true), m.setSaving(b, false))
	}()
	if err := m.finish(ctx, staged, &c); err != nil {
		return err
	}
	mf, err := m.manifest(ctx, rec.ID, c)
	if err == nil {
		mf, err = m.d.Snapshots.Seal(ctx, staged, mf)
	}
	if err == nil {
		err = snapshot.Write(staged, mf)
	}
	if err == nil {
		err = os.Rename(staged, dir)
	}
	if err == nil {
		m.d.Snapshots.Moved(staged, dir, mf)
		err = snapshot.SyncDir(m.d.Store.Dir(rec.ID))
	}
	if err != nil {
		return err
	}
	err = m.move(b, sandbox.Suspended, func(r *sandbox.Record) {
		r.Saving, r.Restore, r.Reason = false, &sandbox.Restore{Kind: sandbox.RestoreSuspended}, reason
		r.Machine, r.Bindings, r.FinishedAt = nil, nil, time.Now().UTC()
	})
	if err != nil {
		return err
	}
	if err := m.endSuspended(context.WithoutCancel(ctx), b); err != nil {
		// What is on disk is whole, and a start looks for what is left.
		m.log.Error("end the VMM of a suspended sandbox", "sandbox", rec.Spec.Name, "err", err)
	}
	m.log.Info("suspended", "sandbox", rec.Spec.Name, "took", time.Since(began).Round(time.Millisecond), "reason", reason)
	return nil
}

// endSuspended ends the VMM of a sandbox whose record says that it is suspended. The caller holds op.
func (m *Manager) endSuspended(ctx context.Context, b *box) error {
	b.mu.Lock()
	machine, g, id := b.machine, b.guest, b.rec.ID
	b.guest = nil
	b.stopIdleTimer()
	b.mu.Unlock()
	b.unpublish()
	g.close()
	if machine != nil {
		if err := machine.Kill(ctx); err != nil {
			return err
		}
	}
	b.mu.Lock()
	b.machine = nil
	b.mu.Unlock()
	return m.removeRuntimeDir(id)
}

// stampDisks is what a manifest says of the disks of a sandbox that nobody is to write to until it is resumed.
func (m *Manager) stampDisks(ctx context.Context, rec sandbox.Record) ([]snapshot.Disk, error) {
	disks, err := m.disks(ctx, rec)
	if err != nil {
		return nil, err
	}
	var list []snapshot.Disk
	for _, d := range disks {
		if d.Role == sandbox.RootLower {
			continue // it has a digest
		}
		s, err := snapshot.StampDisk(d.Path, d.Role)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// changed says which of the disks of a saved microVM is not as its memory knows it, or "".
func (m *Manager) changed(ctx context.Context, rec sandbox.Record, mf snapshot.Manifest) (sandbox.DiskRole, error) {
	disks, err := m.disks(ctx, rec)
	if err != nil {
		return "", err
	}
	return mf.Changed(func(role sandbox.DiskRole) (string, error) {
		for _, d := range disks {
			if d.Role == role {
				return d.Path, nil
			}
		}
		return "", fmt.Errorf("the saved microVM has a disk %s, and the sandbox has none", role)
	})
}

// intact reports whether the memory of a sandbox that could not be resumed can be resumed still: nothing was written to its disks.
func (m *Manager) intact(ctx context.Context, rec sandbox.Record) bool {
	if rec.Restore == nil || rec.Restore.Kind != sandbox.RestoreSuspended {
		return false
	}
	mf, err := snapshot.Read(m.savedDir(rec))
	if err != nil {
		return false
	}
	role, err := m.changed(ctx, rec, mf)
	return role == "" && err == nil
}

// discardSaved deletes the saved memory of a sandbox.
func (m *Manager) discardSaved(rec sandbox.Record) error {
	dir := m.savedDir(rec)
	if mf, err := snapshot.Read(dir); err == nil {
		m.d.Snapshots.Forget(dir, mf)
	}
	for _, name := range []string{savedDir, newSavedDir} {
		if err := os.RemoveAll(filepath.Join(m.d.Store.Dir(rec.ID), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete the saved memory: %w", err)
		}
	}
	return nil
}

// stopSuspended gives up the memory of a suspended sandbox. The caller holds op.
func (m *Manager) stopSuspended(b *box) error {
	err := m.move(b, sandbox.Stopped, func(r *sandbox.Record) { r.Reason, r.Restore = "", nil })
	if err != nil {
		return err
	}
	return m.discardSaved(b.record())
}
