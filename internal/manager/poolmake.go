package manager

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// makePooled starts a microVM for a sandbox of image with all else as by default.
func (m *Manager) makePooled(ctx context.Context, image string) (_ *pooled, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, poolTimeout, fmt.Errorf("it was not ready within %v", poolTimeout))
	defer cancel()
	id := newID()
	spec := sandbox.Spec{
		Name: "pool-" + id, Arch: m.d.HostArch, Image: image, VCPUs: sandbox.DefaultVCPUs, MemoryMiB: sandbox.DefaultMemoryMiB, DiskMiB: sandbox.DefaultDiskMiB,
	}
	if spec.VsockCID, err = m.reserve(spec); err != nil {
		return nil, err
	}
	defer func() { // its name was for the image to be held; its CID is its own until it is gone
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.reserved, spec.Name)
		delete(m.claimed, spec.Name)
		if err != nil {
			delete(m.cids, spec.VsockCID)
		}
	}()
	p := &pooled{rec: sandbox.Record{Version: sandbox.RecordVersion, ID: id, Spec: spec, State: sandbox.Created}}
	if p.rec.Image, err = m.claimImage(ctx, spec); err != nil {
		return nil, err
	}
	dir, err := m.d.Store.Stage(id)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.d.Store.Discard(id))
		}
	}()
	if err := m.d.CreateUpper(ctx, filepath.Join(dir, upperFile), spec.DiskMiB); err != nil {
		return nil, fmt.Errorf("make its disk: %w", err)
	}
	if err := m.startPooled(ctx, p, dir); err != nil {
		return nil, err
	}
	return p, nil
}

// startPooled starts the microVM of p, whose files are in dir.
func (m *Manager) startPooled(ctx context.Context, p *pooled, dir string) (err error) {
	from, _, err := m.fromTemplate(ctx, p.rec, true)
	if err != nil {
		return err
	}
	defer from.close()
	spec, err := m.launchSpec(ctx, p.rec, StartOptions{}, from)
	if err != nil {
		return err
	}
	spec.LogDir = dir
	for i := range spec.Disks {
		if spec.Disks[i].Role == sandbox.Upper {
			spec.Disks[i].Path = filepath.Join(dir, upperFile)
		}
	}
	if from != nil {
		if err := m.placeDisks(ctx, dir, from); err != nil {
			return err
		}
	}
	if err := m.makeRuntimeDir(spec); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.removeRuntimeDir(spec.ID))
		}
	}()
	if p.machine, err = m.d.Engine.Launch(ctx, spec); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			p.guest.close()
			err = errors.Join(explain(ctx, p.machine, err), p.machine.Kill(context.WithoutCancel(ctx)))
		}
	}()
	p.setMachine(spec)
	if p.guest, err = connect(ctx, p.machine, p.rec); err != nil {
		return err
	}
	if from.restores() {
		if _, err := p.guest.resume(ctx, goingOn(from.kind)); err != nil {
			return err
		}
	}
	return p.warm(ctx)
}

func (p *pooled) setMachine(spec sandbox.MachineSpec) {
	rec := p.machine.Record()
	p.rec.Machine = &rec
	p.rec.Kernel, p.rec.KernelFile, p.rec.InitrdFile = spec.Kernel.Version, spec.Kernel.Path, spec.Initrd
}

// warm runs a command, twice, and has the guest's events told meanwhile, as when a sandbox has begun: most of what the first ones cost,
// on the host and in the guest, is paid then.
func (p *pooled) warm(ctx context.Context) error {
	client, err := p.guest.control(ctx)
	if err != nil {
		return err
	}
	watchCtx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		_ = guestrpc.Watch(watchCtx, p.guest.dial, func(guestrpc.OOMKill) {}) // ends with watchCtx, if not before
	}()
	defer func() { cancel(); <-watched }()
	for range 2 {
		x, err := client.Exec(ctx, guestrpc.ExecSpec{ID: newID(), Argv: []string{"true"}}) // an image may have none
		if err != nil {
			return fmt.Errorf("run a command in it: %w", err)
		}
		for err == nil {
			_, err = x.Recv()
		}
		if err := x.Close(); err != nil {
			return fmt.Errorf("run a command in it: %w", err)
		}
	}
	return nil
}
