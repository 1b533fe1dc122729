package manager

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// The files of a sandbox, in its directory.
const (
	upperFile     = "upper.ext4"
	workspaceFile = "workspace.ext4"
	consoleFile   = "console.log"
)

// Create makes a sandbox: its record, its empty upper disk, and the disk with its project. The record's Warnings say what
// of the project was left out, and that a guest of another architecture is slow.
func (m *Manager) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Record, error) {
	if spec.Arch == "" {
		spec.Arch = m.d.HostArch
	}
	if err := spec.Validate(m.d.Host); err != nil {
		return sandbox.Record{}, err
	}
	if spec.Project != "" && !filepath.IsAbs(spec.Project) {
		return sandbox.Record{}, sandbox.Errorf(sandbox.Invalid, "give its absolute path", "project directory %q is not an absolute path", spec.Project)
	}
	cid, err := m.reserve(spec)
	if err != nil {
		return sandbox.Record{}, err
	}
	anyCID := spec.VsockCID == 0
	spec.VsockCID = cid
	rec, pooled, err := m.create(ctx, spec, anyCID)

	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.reserved, spec.Name)
	delete(m.claimed, spec.Name)
	if err != nil {
		delete(m.cids, cid)
		m.unnameVolumes(spec.Name, spec.Volumes)
		return sandbox.Record{}, err
	}
	if rec.Spec.VsockCID != cid {
		delete(m.cids, cid)
	}
	b := newBox(rec)
	m.byName[spec.Name] = b
	m.keepPooled(b, pooled)
	m.moved(rec, "")
	m.log.Info("created", "sandbox", spec.Name, "id", rec.ID, "image", rec.Image.Digest)
	return rec, nil
}

// reserve takes the name and a vsock CID, so that nobody else can have them while the sandbox is made, and keeps its volumes
// from being removed.
func (m *Manager) reserve(spec sandbox.Spec) (cid uint32, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reserved[spec.Name] || m.byName[spec.Name] != nil {
		return 0, sandbox.Errorf(sandbox.Exists, "choose another name, or remove it with agentkernel rm "+spec.Name, "there is a sandbox %q already", spec.Name)
	}
	cid = spec.VsockCID
	if cid == 0 {
		for cid = sandbox.MinVsockCID; m.cids[cid]; cid++ {
		}
	} else if m.cids[cid] {
		return 0, sandbox.Errorf(sandbox.Exists, "leave vsock_cid out to have one assigned", "vsock CID %d belongs to another sandbox", cid)
	}
	for _, v := range spec.Volumes {
		if _, ok := m.volumes[v.Volume]; !ok {
			return 0, noVolume(v.Volume)
		}
	}
	m.nameVolumes(spec.Name, spec.Volumes)
	m.reserved[spec.Name], m.cids[cid] = true, true
	return cid, nil
}

func (m *Manager) create(ctx context.Context, spec sandbox.Spec, anyCID bool) (rec sandbox.Record, p *pooled, err error) {
	image, err := m.claimImage(ctx, spec)
	if err != nil {
		return rec, nil, err
	}
	if image.Arch != "" && image.Arch != spec.Arch {
		return rec, nil, sandbox.Errorf(sandbox.Invalid, "choose an image of that architecture", "image %q is for %s, and the sandbox is to be %s", spec.Image, image.Arch, spec.Arch)
	}
	if p := m.takePooled(spec, image, anyCID); p != nil {
		rec, err := m.createPooled(spec, p)
		return rec, p, err
	}
	rec = sandbox.Record{
		Version: sandbox.RecordVersion, ID: newID(), Spec: spec, State: sandbox.Created, Image: image, CreatedAt: time.Now().UTC(),
	}
	if spec.Arch != m.d.HostArch {
		rec.Warnings = append(rec.Warnings, fmt.Sprintf("it is for %s and this host is %s: qemu-system-%s emulates every instruction of it, which is many times slower", spec.Arch, m.d.HostArch, spec.Arch))
	}
	dir, err := m.d.Store.Stage(rec.ID)
	if err != nil {
		return rec, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.d.Store.Discard(rec.ID))
		}
	}()
	if err := m.d.CreateUpper(ctx, filepath.Join(dir, upperFile), spec.DiskMiB); err != nil {
		return rec, nil, fmt.Errorf("make the disk of sandbox %q: %w", spec.Name, err)
	}
	if spec.Project != "" {
		left, err := m.d.PackProject(ctx, spec.Project, filepath.Join(dir, workspaceFile))
		if err != nil {
			return rec, nil, fmt.Errorf("copy the project %s: %w", spec.Project, err)
		}
		rec.Warnings = append(rec.Warnings, left...)
	}
	return rec, nil, m.d.Store.Commit(rec)
}

// Remove deletes a sandbox. A running one is killed first when force is set, else it is an error.
func (m *Manager) Remove(ctx context.Context, name string, force bool) error {
	b, err := m.find(name)
	if err != nil {
		return err
	}
	if force {
		b.cutStart(errRemoved)
	}
	if err := b.acquire(ctx); err != nil {
		return err
	}
	defer b.release()
	m.endPooled(b)
	rec := b.record()
	b.mu.Lock()
	machine := b.machine
	b.mu.Unlock()
	if machine != nil {
		if !force {
			return sandbox.Errorf(sandbox.Conflict, fmt.Sprintf("stop it with agentkernel stop %s, or remove it with --force", name), "sandbox %q is %s", name, rec.State)
		}
		m.flushVolumes(ctx, b, machine)
		b.mu.Lock()
		g := b.guest
		b.mu.Unlock()
		g.close()
		if err := machine.Kill(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("kill the microVM of %q: %w", name, err)
		}
	}
	if err := m.move(b, sandbox.Removing, func(r *sandbox.Record) { r.Machine = nil }); err != nil {
		// A full disk must not stand in the way of making room: the rename of Store.Remove needs none.
		m.log.Warn("record the removal", "sandbox", name, "err", err)
	}
	if err := m.forget(b, rec); err != nil {
		return err
	}
	m.log.Info("removed", "sandbox", name, "id", rec.ID)
	return nil
}

// forget deletes the files of a sandbox that has no VMM, and all that is in memory about it.
func (m *Manager) forget(b *box, rec sandbox.Record) error {
	if err := m.removeRuntimeDir(rec.ID); err != nil {
		return err
	}
	if err := m.d.Store.Remove(rec.ID); err != nil {
		return err
	}
	b.mu.Lock()
	b.removed, b.machine, b.guest = true, nil, nil
	b.mu.Unlock()
	b.unpublish()
	m.mu.Lock()
	delete(m.byName, rec.Spec.Name)
	delete(m.cids, rec.Spec.VsockCID)
	m.unnameVolumes(rec.Spec.Name, rec.Spec.Volumes)
	m.mu.Unlock()
	m.publish(rec, events.Event{Type: events.Removed})
	return nil
}
