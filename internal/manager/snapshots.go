package manager

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

// CreateSnapshot saves the memory and disks of a running or paused sandbox at one point in time. The sandbox goes on. tag may be
// empty.
func (m *Manager) CreateSnapshot(ctx context.Context, name, tag string) (mf snapshot.Manifest, err error) {
	b, err := m.find(name)
	if err != nil {
		return mf, err
	}
	began := time.Now()
	id := newID()
	mark := snapshot.Manifest{ID: id, Sandbox: name, Tag: tag}
	dir, err := m.d.Snapshots.Begin(mark)
	if err != nil {
		return mf, err
	}
	defer func() {
		if err == nil {
			return
		}
		if e := m.d.Snapshots.Abandon(mark); e != nil {
			m.log.Error("delete a snapshot that failed", "sandbox", name, "snapshot", id, "err", e)
		}
		err = asFailure(err, "take a snapshot of %q", name)
	}()
	c, err := m.take(ctx, b, dir, true)
	if err != nil {
		return mf, err
	}
	if mf, err = m.manifest(ctx, id, c); err != nil {
		return mf, err
	}
	mf.Tag = tag
	if mf, err = m.d.Snapshots.Seal(ctx, dir, mf); err != nil {
		return mf, err
	}
	if err := m.d.Snapshots.Commit(dir, mf); err != nil {
		return mf, err
	}
	m.publish(c.rec, events.Event{Type: events.Snapshot, Snapshot: mf.ID, Tag: tag, Duration: mf.PausedFor})
	m.log.Info("took a snapshot", "sandbox", name, "snapshot", id, "tag", tag, "paused", mf.PausedFor, "took", time.Since(began).Round(time.Millisecond))
	return mf, nil
}

// take saves a sandbox with its disks into dir. The sandbox is its own again when what the engine has saved is finished.
func (m *Manager) take(ctx context.Context, b *box, dir string, sync bool) (c captured, err error) {
	if err := b.acquire(ctx); err != nil {
		return c, err
	}
	rec := b.record()
	err = shareable(rec)
	if err == nil {
		c, err = m.capture(ctx, b, dir, capturing{sync: sync}, func() ([]snapshot.Disk, error) { return m.copyWritten(ctx, rec, dir) })
	}
	b.release()
	if err != nil {
		return c, err
	}
	if rec.Spec.Project != "" { // read-only, so that it can be copied at any time
		d, err := snapshot.CopyDisk(ctx, dir, filepath.Join(m.d.Store.Dir(rec.ID), workspaceFile), sandbox.Workspace)
		if err != nil {
			return c, err
		}
		c.disks = append(c.disks, d)
	}
	return c, m.finish(ctx, dir, &c)
}

// copyWritten copies what the guest writes to, and notes how the volumes are that it reads.
func (m *Manager) copyWritten(ctx context.Context, rec sandbox.Record, dir string) ([]snapshot.Disk, error) {
	upper, err := snapshot.CopyDisk(ctx, dir, filepath.Join(m.d.Store.Dir(rec.ID), upperFile), sandbox.Upper)
	if err != nil {
		return nil, err
	}
	list := []snapshot.Disk{upper}
	volumes, err := m.volumeDisks(rec)
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		s, err := snapshot.StampDisk(v.Path, v.Role)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// shareable says why there cannot be a copy of a sandbox, or nil.
func shareable(rec sandbox.Record) error {
	i := slices.IndexFunc(rec.Spec.Volumes, func(v sandbox.VolumeMount) bool { return !v.ReadOnly })
	if i < 0 {
		return nil
	}
	v := rec.Spec.Volumes[i]
	return sandbox.Errorf(sandbox.Conflict, fmt.Sprintf("agentkernel suspend %s keeps its memory for itself; or mount the volume read-only (%s:%s:ro)", rec.Spec.Name, v.Volume, v.Path),
		"it can write to volume %q, which has one writer and is no part of a snapshot: a copy would be another writer, with memory of what was on it", v.Volume)
}

// Snapshots returns all snapshots, and a line for each manifest that could not be read.
func (m *Manager) Snapshots() (list []snapshot.Manifest, problems []string) {
	m.mu.Lock()
	problems = slices.Clone(m.snapshotProblems)
	m.mu.Unlock()
	return m.d.Snapshots.List(), problems
}

// Snapshot finds a snapshot by sandbox:tag, its id, or the beginning of that.
func (m *Manager) Snapshot(ref string) (snapshot.Manifest, error) { return m.d.Snapshots.Find(ref) }

// SnapshotUsed is how many bytes of the host's disk a snapshot takes.
func (m *Manager) SnapshotUsed(mf snapshot.Manifest) (n int64, err error) {
	for _, f := range mf.Files {
		used, err := m.d.DiskUsed(filepath.Join(m.d.Snapshots.Dir(mf.ID), f.Path))
		if err != nil {
			return 0, err
		}
		n += used
	}
	return n, nil
}

// RemoveSnapshot deletes a snapshot. Sandboxes that were started from it go on; it is refused while there are some that were made from
// it and not started.
func (m *Manager) RemoveSnapshot(_ context.Context, ref string) error {
	mf, err := m.d.Snapshots.Find(ref)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var users []string
	for name, b := range m.byName {
		b.mu.Lock()
		if r := b.rec.Restore; r != nil && r.Kind == sandbox.RestoreSnapshot && r.ID == mf.ID {
			users = append(users, name)
		}
		b.mu.Unlock()
	}
	if len(users) > 0 {
		slices.Sort(users)
		return sandbox.Errorf(sandbox.Conflict, "start them, or remove them with agentkernel rm", "snapshot %s is what these are to be started from: %v", mf.Ref(), users)
	}
	if err := m.d.Snapshots.Remove(mf.ID); err != nil {
		return err
	}
	m.log.Info("removed a snapshot", "snapshot", mf.ID, "sandbox", mf.Sandbox, "tag", mf.Tag)
	return nil
}

// CreateFrom makes a sandbox that goes on from a snapshot when it is started. Of spec count the name, the ports, the vsock CID and what
// happens when it is idle.
func (m *Manager) CreateFrom(ctx context.Context, spec sandbox.Spec, ref string) (sandbox.Record, error) {
	mf, done, err := m.d.Snapshots.Use(ref) // not to be removed before there is a record that names it
	if err != nil {
		return sandbox.Record{}, err
	}
	defer done()
	spec = copyOf(mf.Spec, spec)
	if err := spec.Validate(m.d.Host); err != nil {
		return sandbox.Record{}, err
	}
	o := &origin{manifest: mf, dir: m.d.Snapshots.Dir(mf.ID), kind: sandbox.RestoreSnapshot}
	rec := sandbox.Record{Spec: spec, State: sandbox.Created, Restore: &sandbox.Restore{Kind: sandbox.RestoreSnapshot, ID: mf.ID}}
	b, err := m.createCopy(ctx, rec, o)
	if err != nil {
		return sandbox.Record{}, err
	}
	return b.record(), nil
}

// copyOf is the spec of a copy: what its memory is made for is the original's.
func copyOf(original, asked sandbox.Spec) sandbox.Spec {
	spec := original
	spec.Name, spec.VsockCID, spec.Publish = asked.Name, asked.VsockCID, asked.Publish
	spec.IdleTimeoutMs, spec.IdleAction = asked.IdleTimeoutMs, asked.IdleAction
	return spec
}

// createCopy makes the record of a sandbox that is to go on from o.
func (m *Manager) createCopy(ctx context.Context, rec sandbox.Record, o *origin) (*box, error) {
	mf := o.manifest
	cid, err := m.reserve(rec.Spec)
	if err != nil {
		return nil, err
	}
	rec.Version, rec.ID, rec.CreatedAt = sandbox.RecordVersion, newID(), time.Now().UTC()
	rec.Spec.VsockCID, rec.Image, rec.Kernel = cid, mf.Image, mf.Kernel.Release
	rec.Parent = &sandbox.Parent{Sandbox: mf.Sandbox, SandboxID: mf.SandboxID}
	if o.kind == sandbox.RestoreSnapshot {
		rec.Parent.Snapshot = mf.ID
	}
	b := newBox(rec)
	<-b.op // nobody else's before it is there
	defer b.release()
	err = m.commitCopy(ctx, rec, o)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.reserved, rec.Spec.Name)
	if err != nil {
		delete(m.cids, cid)
		m.unnameVolumes(rec.Spec.Name, rec.Spec.Volumes)
		return nil, fmt.Errorf("create %q: %w", rec.Spec.Name, err)
	}
	m.byName[rec.Spec.Name] = b
	m.moved(rec, "")
	m.log.Info("created", "sandbox", rec.Spec.Name, "id", rec.ID, "from", mf.ID)
	return b, nil
}

func (m *Manager) commitCopy(ctx context.Context, rec sandbox.Record, o *origin) error {
	if o.kind == sandbox.RestoreSnapshot {
		if err := m.checkSnapshot(ctx, rec, o); err != nil {
			return cannotRestore(err, "snapshot %s cannot be restored", "agentkernel snapshot inspect "+o.manifest.Ref()+" says what it was taken with", o.manifest.Ref())
		}
	}
	if _, err := m.d.Store.Stage(rec.ID); err != nil {
		return err
	}
	if err := m.d.Store.Commit(rec); err != nil {
		return errors.Join(err, m.d.Store.Discard(rec.ID))
	}
	return nil
}

// loadSnapshots reads all manifests.
func (m *Manager) loadSnapshots() error {
	problems, err := m.d.Snapshots.Load()
	if err != nil {
		return err
	}
	for _, p := range problems {
		m.log.Error("a snapshot's manifest cannot be read; it is left as it is", "path", p.Path, "err", p.Err)
		m.snapshotProblems = append(m.snapshotProblems, p.String())
	}
	return nil
}
