package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// volumeFile is a volume's file system, in its directory.
const volumeFile = "disk.ext4"

// flushGrace is what processes get between SIGTERM and SIGKILL when a sandbox is removed by force that has a volume to write.
const flushGrace = time.Second

// VolumeStatus is a volume as it is now.
type VolumeStatus struct {
	sandbox.Volume
	UsedBytes int64 // of the host's disk
	Users     []VolumeUser
}

// VolumeUser is a sandbox that names a volume.
type VolumeUser struct {
	Sandbox string
	State   sandbox.State // empty while it is being made
	sandbox.VolumeMount
}

// InUse reports whether the user has the volume mounted, or may have.
func (u VolumeUser) InUse() bool { return u.State.HasDisks() }

// CreateVolume makes an empty volume.
func (m *Manager) CreateVolume(ctx context.Context, name string, sizeMiB int) (VolumeStatus, error) {
	if err := sandbox.ValidateVolume(name, sizeMiB); err != nil {
		return VolumeStatus{}, err
	}
	if err := m.reserveVolume(name); err != nil {
		return VolumeStatus{}, err
	}
	v := sandbox.Volume{Version: sandbox.VolumeVersion, ID: newID(), Name: name, SizeMiB: sizeMiB, CreatedAt: time.Now().UTC()}
	err := m.makeVolume(ctx, v)
	m.mu.Lock()
	delete(m.busyVolumes, name)
	if err == nil {
		m.volumes[name] = v
	}
	m.mu.Unlock()
	if err != nil {
		return VolumeStatus{}, fmt.Errorf("make volume %q: %w", name, err)
	}
	m.log.Info("made a volume", "volume", name, "id", v.ID)
	return m.volumeStatus(v)
}

func (m *Manager) reserveVolume(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.volumes[name]; ok || m.busyVolumes[name] {
		return sandbox.Errorf(sandbox.Exists, "choose another name, or remove it with agentkernel volume rm "+name, "there is a volume %q already", name)
	}
	m.busyVolumes[name] = true
	return nil
}

func (m *Manager) makeVolume(ctx context.Context, v sandbox.Volume) (err error) {
	dir, err := m.d.Volumes.Stage(v.ID)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.d.Volumes.Discard(v.ID))
		}
	}()
	if err := m.d.CreateVolume(ctx, filepath.Join(dir, volumeFile), v.SizeMiB); err != nil {
		return err
	}
	return m.d.Volumes.Commit(v)
}

// Volumes returns all volumes by name, and a line for each record that could not be read.
func (m *Manager) Volumes() (list []VolumeStatus, problems []string, err error) {
	m.mu.Lock()
	problems = slices.Clone(m.volumeProblems)
	var volumes []sandbox.Volume
	for _, v := range m.volumes {
		volumes = append(volumes, v)
	}
	m.mu.Unlock()
	slices.SortFunc(volumes, func(a, b sandbox.Volume) int { return cmp.Compare(a.Name, b.Name) })
	for _, v := range volumes {
		status, err := m.volumeStatus(v)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, nil, err
		}
		list = append(list, status)
	}
	return list, problems, nil
}

// Volume returns one volume.
func (m *Manager) Volume(name string) (VolumeStatus, error) {
	v, err := m.findVolume(name)
	if err != nil {
		return VolumeStatus{}, err
	}
	status, err := m.volumeStatus(v)
	if errors.Is(err, os.ErrNotExist) {
		return VolumeStatus{}, fmt.Errorf("its file is gone: %w", err)
	}
	return status, err
}

// RemoveVolume deletes a volume that no sandbox names.
func (m *Manager) RemoveVolume(_ context.Context, name string) error {
	v, err := m.takeVolume(name)
	if err != nil {
		return err
	}
	name = v.Name
	err = m.d.Volumes.Remove(v.ID)
	m.mu.Lock()
	delete(m.busyVolumes, name)
	if _, statErr := os.Stat(m.d.Volumes.Dir(v.ID)); err != nil && statErr == nil {
		m.volumes[name] = v // nothing has been deleted
	}
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("remove volume %q: %w", name, err)
	}
	m.log.Info("removed a volume", "volume", name, "id", v.ID)
	return nil
}

// takeVolume takes a volume that is to be removed out of what sandboxes can name.
func (m *Manager) takeVolume(ref string) (sandbox.Volume, error) {
	v, err := m.findVolume(ref)
	if err != nil {
		return v, err
	}
	name := v.Name
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.volumes[name]; !ok {
		return v, noVolume(name)
	}
	if users := m.named[name]; len(users) > 0 {
		var names []string
		for n := range users {
			names = append(names, n)
		}
		slices.Sort(names)
		return v, sandbox.Errorf(sandbox.Conflict, "remove them first: agentkernel rm "+strings.Join(names, " "), "volume %q belongs to %s", name, strings.Join(names, ", "))
	}
	if len(m.problems) > 0 {
		return v, sandbox.Errorf(sandbox.Conflict, "repair or delete these records first", "whether a sandbox names volume %q is not known: %s", name, strings.Join(m.problems, "; "))
	}
	delete(m.volumes, name)
	m.busyVolumes[name] = true
	return v, nil
}

// mountedVolume is the volume of a mount, which says its name.
func (m *Manager) mountedVolume(mount sandbox.VolumeMount) (sandbox.Volume, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.volumes[mount.Volume]
	if !ok {
		return v, noVolume(mount.Volume)
	}
	return v, nil
}

func (m *Manager) volumePath(v sandbox.Volume) string {
	return filepath.Join(m.d.Volumes.Dir(v.ID), volumeFile)
}

func (m *Manager) volumeStatus(v sandbox.Volume) (VolumeStatus, error) {
	used, err := m.d.DiskUsed(m.volumePath(v))
	if err != nil {
		return VolumeStatus{}, fmt.Errorf("look at volume %q: %w", v.Name, err)
	}
	return VolumeStatus{Volume: v, UsedBytes: used, Users: m.volumeUsers(v.Name)}, nil
}

// volumeUsers are the sandboxes that name a volume, by name.
func (m *Manager) volumeUsers(volume string) []VolumeUser {
	type found struct {
		user VolumeUser
		b    *box
	}
	m.mu.Lock()
	var all []found
	for name, mount := range m.named[volume] {
		all = append(all, found{VolumeUser{Sandbox: name, VolumeMount: mount}, m.byName[name]})
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(a.user.Sandbox, b.user.Sandbox) })
	var users []VolumeUser
	for _, f := range all {
		if f.b != nil {
			f.user.State = f.b.record().State
		}
		users = append(users, f.user)
	}
	return users
}

// nameVolumes notes that a sandbox names volumes. The caller holds m.mu.
func (m *Manager) nameVolumes(name string, mounts []sandbox.VolumeMount) {
	for _, v := range mounts {
		if m.named[v.Volume] == nil {
			m.named[v.Volume] = map[string]sandbox.VolumeMount{}
		}
		m.named[v.Volume][name] = v
	}
}

// unnameVolumes is the opposite of nameVolumes. The caller holds m.mu.
func (m *Manager) unnameVolumes(name string, mounts []sandbox.VolumeMount) {
	for _, v := range mounts {
		delete(m.named[v.Volume], name)
	}
}

// withVolumes calls begin, which records that the sandbox starts, if it can have its volumes then. Who has a volume follows
// from the records of sandboxes alone, so that there is no lock that a crash could leave.
func (m *Manager) withVolumes(rec sandbox.Record, begin func() error) error {
	if len(rec.Spec.Volumes) == 0 {
		return begin()
	}
	// From the look at the others to the record of this one.
	m.claiming.Lock()
	defer m.claiming.Unlock()
	for _, id := range m.unread {
		if _, err := os.Lstat(filepath.Join(m.d.RuntimeDir, id)); err == nil {
			return sandbox.Errorf(sandbox.Conflict, "repair that record, or end its VMM and delete "+filepath.Join(m.d.RuntimeDir, id),
				"start %q: whether its volumes are free is not known, as %s may run and its record cannot be read", rec.Spec.Name, m.d.Store.Dir(id))
		}
	}
	for _, mount := range rec.Spec.Volumes {
		if err := m.volumeFree(rec.Spec.Name, mount); err != nil {
			return err
		}
	}
	return begin()
}

// volumeFree checks that a sandbox that starts can have a volume: one sandbox can write to it, or any number can read it. An ext4
// file system that is mounted twice, once to write, is destroyed or misread.
func (m *Manager) volumeFree(name string, mount sandbox.VolumeMount) error {
	v, err := m.mountedVolume(mount)
	if err != nil {
		return fmt.Errorf("start %q: %w", name, err)
	}
	for _, u := range m.volumeUsers(mount.Volume) {
		if u.Sandbox == name || !u.InUse() || u.ReadOnly && mount.ReadOnly {
			continue
		}
		how := "can write to it"
		if u.ReadOnly {
			how = "reads it, and this one would write"
		}
		return sandbox.Errorf(sandbox.Conflict, fmt.Sprintf("stop that with agentkernel stop %s; several sandboxes can have a volume at once only when all have it with :ro", u.Sandbox),
			"start %q: volume %q is in use by sandbox %q, which is %s and %s", name, mount.Volume, u.Sandbox, u.State, how)
	}
	if !mount.ReadOnly {
		return nil
	}
	// A journal is replayed by who can write.
	dirty, err := m.d.NeedsRecovery(m.volumePath(v))
	if err != nil {
		return fmt.Errorf("start %q: look at volume %q: %w", name, mount.Volume, err)
	}
	if dirty {
		return sandbox.Errorf(sandbox.Conflict, fmt.Sprintf("use it once in a sandbox that can write to it, which makes it whole: agentkernel run -v %s:%s -- true", mount.Volume, mount.Path),
			"start %q: volume %q was not unmounted, as the last sandbox that wrote to it was killed, and cannot be mounted read-only like that", name, mount.Volume)
	}
	return nil
}

// volumeDisks are the disks with a sandbox's volumes.
func (m *Manager) volumeDisks(rec sandbox.Record) ([]sandbox.Disk, error) {
	var disks []sandbox.Disk
	for i, mount := range rec.Spec.Volumes {
		v, err := m.mountedVolume(mount)
		if err != nil {
			return nil, err
		}
		disks = append(disks, sandbox.Disk{Role: sandbox.VolumeRole(i), Path: m.volumePath(v), FS: "ext4", ReadOnly: mount.ReadOnly, MountPoint: mount.Path})
	}
	return disks, nil
}

// flushVolumes has the guest of a sandbox that is about to be killed write its volumes: they outlive it, unlike all else that it
// has. It ends with the microVM, or soon.
func (m *Manager) flushVolumes(ctx context.Context, b *box, machine sandbox.Machine) {
	writes := func(v sandbox.VolumeMount) bool { return !v.ReadOnly }
	rec := b.record()
	if !slices.ContainsFunc(rec.Spec.Volumes, writes) {
		return
	}
	b.mu.Lock()
	g := b.guest
	b.mu.Unlock()
	if rec.State == sandbox.Paused {
		g = m.wakeToEnd(context.WithoutCancel(ctx), b, flushGrace+unmountTime)
	}
	if g == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushGrace+unmountTime)
	defer cancel()
	err := g.shutdown(ctx, flushGrace)
	if err == nil {
		select {
		case <-machine.Done():
			return
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	m.log.Warn("the guest does not write its volumes before it is removed", "sandbox", rec.Spec.Name, "err", err)
}

// loadVolumes reads the records of all volumes.
func (m *Manager) loadVolumes() error {
	volumes, problems, err := m.d.Volumes.Load()
	if err != nil {
		return err
	}
	for _, p := range problems {
		m.log.Error("a volume's record cannot be read; it is left as it is", "path", p.Path, "err", p.Err)
		m.volumeProblems = append(m.volumeProblems, p.String())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range volumes {
		if other, ok := m.volumes[v.Name]; ok {
			m.volumeProblems = append(m.volumeProblems, fmt.Sprintf("%s: it has the name of %s", m.d.Volumes.Dir(v.ID), m.d.Volumes.Dir(other.ID)))
			continue
		}
		m.volumes[v.Name] = v
	}
	return nil
}
